"""torch.func.vmap over a leading dimension of the first input, of every public loss, and of its gradient."""

import importlib

import pytest
import torch

import kdfast.functional as KF
from kdfast import self_check

# No loss: sums by class without a gradient, and a mask that draws one number for all samples.
OPS = [op for op in self_check._rooms() if op not in ("class_sums", "random_mask")]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients_of_each_sample(op):
    function = getattr(importlib.import_module(f"kdfast.ops.{op}"), op)
    (first, *others), keywords = self_check.arguments(op)
    samples = torch.stack([first, 0.7 * first + 0.1, first.flip(0)])

    def total(x: torch.Tensor) -> torch.Tensor:
        out = function(x, *others, **keywords)
        return sum(y.sum() for y in (out if isinstance(out, tuple) else (out,)))

    for of in (total, torch.func.grad(total)):
        torch.testing.assert_close(torch.func.vmap(of)(samples), torch.stack([of(x) for x in samples]))


@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_heads(reduction):
    """Of several inputs, some of them shared, in chunks; and the gradient of a vmap."""
    make = torch.randn
    hidden, weight, bias = make(3, 5, 8), make(33, 8), make(33)
    teacher, teacher_weight, mask = make(3, 5, 6), make(33, 6), torch.rand(3, 5)

    def loss(h, w, b, t, m):
        return KF.linear_kl_div(
            h, w, t, teacher_weight, student_bias=b, mask=m, reduction=reduction, chunk_rows=2
        ).sum()

    gradients = torch.func.grad(loss, argnums=(0, 1, 2))
    each = [gradients(hidden[i], weight, bias, teacher[i], mask[i]) for i in range(3)]
    found = torch.func.vmap(gradients, in_dims=(0, None, None, 0, 0))(hidden, weight, bias, teacher, mask)
    for ours, own in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(own))

    def together(h, w):
        return torch.func.vmap(lambda *x: loss(x[0], w, bias, *x[1:]))(h, teacher, mask).sum()

    found = torch.func.grad(together, argnums=(0, 1))(hidden, weight)
    torch.testing.assert_close(found[0], torch.stack([x[0] for x in each]))
    torch.testing.assert_close(found[1], sum(x[1] for x in each), rtol=1e-4, atol=1e-5)
