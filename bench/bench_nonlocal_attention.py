"""nonlocal_attention, forward and backward, re-associated, against the map in memory as in CanKD's code."""

import features
import harness
import pytest
import torch
from harness import Case, Provider

import kdfast.functional as KF

SIZES = [(1, 128, 196), (1, 128, 3136), (1, 128, 15200)]
MAP_FITS = 4000  # positions


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "B{} C={} N={}".format(*s))
def test_nonlocal_attention(benchmark, size):
    batch, channels, positions = size
    query, key, value = (
        features.noise((batch, channels, positions), seed=seed).requires_grad_() for seed in range(3)
    )

    def materialised(query, key, value):
        return (value @ (query.mT @ key / positions).mT).square().sum()

    def ours(query, key, value):
        return KF.nonlocal_attention(query, key, value).square().sum()

    def provider(name, form):
        def step():
            form(query, key, value).backward()
            query.grad = key.grad = value.grad = None

        return Provider(name, step, harness.gradient_of(form, query.detach(), key.detach(), value.detach()))

    forms = {"kdfast": ours}
    truth = None
    if positions <= MAP_FITS:
        torch._dynamo.reset()
        forms |= {"map in memory": materialised, "torch.compile": torch.compile(materialised)}
        doubles = (x.detach().double() for x in (query, key, value))
        truth = harness.gradient_of(materialised, *doubles)()
    providers = [provider(name, form) for name, form in forms.items()]
    name = "B{} C={} N={}".format(*size)
    flops = 12 * batch * positions * channels**2
    harness.compare(Case("nonlocal_attention", name, providers, 24 * query.numel(), truth, flops), benchmark)
