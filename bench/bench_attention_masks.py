"""attention_masks in ACAM-KD's mask generation, forward and backward, against the map in memory and against
SDPA with values of full width.

The four products that no form can do without (two of the logits, one for each gradient) at the library's own
rate are the row "four GEMMs".
"""

import os

import features
import harness
import pytest
import torch
import torch.nn.functional as F
from harness import Case, Provider

import kdfast.functional as KF

LARGE = [15200]
if harness.device() == "cuda" or os.environ.get("KDFAST_BENCH_ATTENTION") == "all":
    LARGE.append(60800)  # half a minute a step on two CPU cores
SIZES = [(1, 128, 256, 3800, 6), (2, 128, 256, 950, 6), (1, 9, 19, 4096, 19)]


def masks_of(spatial, mean):
    """Something that depends on both kinds of masks."""
    return spatial.sigmoid().square().sum() + mean.sigmoid().square().sum()


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "B{} d={} C={} N={} M={}".format(*s))
def test_attention_masks(benchmark, size):
    batch, width, channels, positions, masks = size
    query, key = (features.noise((batch, width, positions), seed=seed) for seed in (0, 1))
    value, units = (
        features.noise((batch, channels, positions), seed=2),
        features.noise((masks, channels), seed=3),
    )
    units = units * channels**-0.5
    leaves = [x.requires_grad_() for x in (query, key, value, units)]

    def ours(query, key, value, units):
        logits, mean = KF.attention_masks(query, key, units @ value)
        return masks_of(logits, value @ mean.unsqueeze(2))

    def eager(query, key, value, units):
        fused = value @ (query.mT @ key * width**-0.5).softmax(2).mT
        return masks_of(units @ fused, fused.mean(2))

    def sdpa(query, key, value, units):
        heads = (x.mT.unsqueeze(1) for x in (query, key, value))
        fused = F.scaled_dot_product_attention(*heads)[:, 0].mT
        return masks_of(units @ fused, fused.mean(2))

    def four_products():
        with torch.no_grad():
            for _ in range(2):
                logits = query.mT @ key
            return query @ logits, key @ logits.mT

    def provider(name, form):
        def step():
            form(*leaves).backward()
            for leaf in leaves:
                leaf.grad = None

        return Provider(name, step, harness.gradient_of(form, query.detach(), key, value, units))

    torch._dynamo.reset()
    truth = harness.gradient_of(eager, query.detach().double(), *(x.detach().double() for x in leaves[1:]))()
    forms = {"kdfast": ours, "eager": eager, "SDPA": sdpa, "torch.compile of SDPA": torch.compile(sdpa)}
    providers = [provider(name, form) for name, form in forms.items()]
    providers.append(Provider("four GEMMs", four_products))
    numbers = 2 * sum(x.numel() for x in leaves)
    flops = 8 * batch * positions**2 * width
    name = "B{} d={} C={} N={} M={}".format(*size)
    harness.compare(Case("attention_masks", name, providers, 4 * numbers, truth, flops), benchmark)


@pytest.mark.parametrize("positions", LARGE)
def test_attention_masks_of_a_large_map(benchmark, monkeypatch, positions):
    """P3 and P2 of a detector at 800 x 1216: where the map in memory would take gigabytes."""
    query, key = (features.noise((1, 128, positions), seed=seed).requires_grad_() for seed in (0, 1))
    value = features.noise((1, 6, positions), seed=2).requires_grad_()
    if harness.device() == "cpu" and positions > 20_000:
        monkeypatch.setattr(harness, "ROUNDS", 1)
        monkeypatch.setattr(harness, "RUNS", 1)

    def step():
        masks_of(*KF.attention_masks(query, key, value)).backward()
        for leaf in (query, key, value):
            leaf.grad = None

    flops = 8 * positions**2 * 128
    provider = Provider("kdfast", step)
    case = Case("attention_masks", f"B1 d=128 N={positions} M=6", [provider], 16 * query.numel(), flops=flops)
    harness.compare(case, benchmark)
