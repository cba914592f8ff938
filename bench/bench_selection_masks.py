"""selection_masks, forward and backward, against the same in plain PyTorch."""

import features
import harness
import pytest
import torch
from harness import Case, Provider

import kdfast.functional as KF

SIZES = [(2, 256, 100, 152, 6), (2, 256, 25, 38, 6), (2, 19, 64, 128, 19)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "{}x{}x{}x{} M={}".format(*s))
def test_selection_masks(benchmark, size):
    *shape, masks = size
    fused = features.noise(shape).requires_grad_()
    units = (features.noise((masks, shape[1]), seed=1) * shape[1] ** -0.5).requires_grad_()
    channel_units = features.noise((masks, 1), seed=2).requires_grad_()

    def total(spatial, channel):
        return spatial.square().sum() + channel.square().sum()

    def ours(fused, units, channel_units):
        return total(*KF.selection_masks(fused, units, channel_units))

    def eager(fused, units, channel_units):
        spatial = (units @ fused.flatten(2)).sigmoid()
        return total(spatial, (channel_units * fused.mean((2, 3)).unsqueeze(1)).sigmoid())

    def provider(name, form):
        def step():
            form(fused, units, channel_units).backward()
            fused.grad = units.grad = channel_units.grad = None

        return Provider(name, step, harness.gradient_of(form, fused.detach(), units, channel_units))

    torch._dynamo.reset()
    truth = harness.gradient_of(eager, *(x.detach().double() for x in (fused, units, channel_units)))()
    forms = {"kdfast": ours, "eager": eager, "torch.compile": torch.compile(eager)}
    providers = [provider(name, form) for name, form in forms.items()]
    name = "{}x{}x{}x{} M={}".format(*size)
    harness.compare(Case("selection_masks", name, providers, 12 * fused.numel(), truth), benchmark)
