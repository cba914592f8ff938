"""Autocast changes nothing: neither around the loss nor around `backward()`, whose own matrix products it
would round to bfloat16."""

import importlib

import pytest
import torch

import kdfast
from kdfast import self_check

OPS = [op for op in self_check._rooms() if op != "class_sums"]  # which has no gradient


def numbers(function, inputs: list, keywords: dict, around: tuple[bool, bool]) -> list[torch.Tensor]:
    """Values and gradients, with autocast on around forward and backward as `around` says."""
    inputs = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in inputs]
    leaves = [x.requires_grad_() for x in inputs if isinstance(x, torch.Tensor) and x.is_floating_point()]
    with torch.autocast("cpu", torch.bfloat16, enabled=around[0]):
        out = function(*inputs, **keywords)
    outs = [x for x in (out if isinstance(out, tuple) else (out,)) if x.requires_grad]
    uneven = sum((x * torch.linspace(0.5, 1.5, x.numel()).view_as(x)).sum() for x in outs)
    with torch.autocast("cpu", torch.bfloat16, enabled=around[1]):
        uneven.backward()
    return [*(x.detach() for x in outs), *(x.grad for x in leaves if x.grad is not None)]


def changes_nothing(function, inputs: list, keywords: dict) -> None:
    plain = numbers(function, inputs, keywords, (False, False))
    for around in ((True, False), (True, True), (False, True)):
        under = numbers(function, inputs, keywords, around)
        assert all(torch.equal(a, b) for a, b in zip(plain, under, strict=True)), around


@pytest.mark.parametrize("op", OPS)
def test_op(op, need):
    need.backend("native")
    with kdfast.use("native"):
        changes_nothing(getattr(importlib.import_module(f"kdfast.ops.{op}"), op), *self_check.arguments(op))


@pytest.mark.parametrize("options", [{}, {"kv_pool": 2}], ids=str)
def test_cooperative_masks(options):
    masks = kdfast.nn.CooperativeMasks(8, 4, 3, **options)
    maps = [torch.randn(2, channels, 6, 6) for channels in (4, 8)]
    weights = dict(masks.named_parameters())

    def call(*x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.func.functional_call(masks, dict(zip(weights, x[2:], strict=True)), x[:2])

    changes_nothing(call, [*maps, *weights.values()], {})
