"""What every loss on logits must hold, as functions that its room's test file calls.

`call` takes the student logits alone and returns the loss (or a tuple of them); everything else is fixed in
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def total(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """One number of all values."""
    outs = out if isinstance(out, tuple) else (out,)
    return sum(weight * x.sum() for weight, x in zip((1.0, 0.7), outs, strict=False))


def gradient(call: Callable, logits: Tensor) -> Tensor:
    """The gradient of everything `call` returns."""
    leaf = logits.detach().clone().requires_grad_()
    return torch.autograd.grad(total(call(leaf)), leaf)[0]


def has_value(call: Callable, logits: Tensor, value: float, size: float, rel: float = 1e-9) -> None:
    """The value, and the sum of the gradient's absolute values, of a test vector."""
    leaf = logits.detach().clone().requires_grad_()
    out = call(leaf)
    out.backward()
    assert math.isclose(out.item(), value, rel_tol=rel), f"value {out.item()}, not {value}"
    found = leaf.grad.abs().sum().item()
    assert math.isclose(found, size, rel_tol=rel), f"sum |g| {found}, not {size}"


def works_with_pytorch(call: Callable, logits: Tensor) -> None:
    """gradcheck, retained graphs, torch.func.grad, torch.compile, no_grad, autocast; logits are float64."""
    leaf = logits.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(call, (leaf,))
    plain = gradient(call, logits)
    loss = 2 * total(call(leaf))
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(loss, leaf, retain_graph=True)[0], 2 * plain)
    torch.testing.assert_close(torch.func.grad(lambda x: total(call(x)))(logits), plain)
    with torch.no_grad():
        assert not total(call(leaf)).requires_grad
    with torch.autocast(logits.device.type, dtype=torch.bfloat16):
        torch.testing.assert_close(gradient(call, logits), plain, rtol=1e-12, atol=0)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: total(call(x)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], plain)


def is_attached_zero(loss: Tensor, leaf: Tensor) -> None:
    """0, still in the graph, with a gradient of zeros."""
    assert loss == 0
    (grad,) = torch.autograd.grad(loss, leaf, retain_graph=True)
    assert grad.shape == leaf.shape and (grad == 0).all()


def refuses(cases: list[tuple[Callable, type[Exception], str]]) -> None:
    """Each call raises the error with these words."""
    for call, error, words in cases:
        with pytest.raises(error, match=words):
            call()
