"""What the tests of the losses on features share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def noise(shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def near(value: Tensor | float, expected: float, digits: float = 2e-9) -> None:
    """Agrees with a test vector, printed with ten digits or more."""
    assert float(value) == pytest.approx(expected, rel=digits, abs=1e-12)


def value_and_grads(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A loss and its gradients by `inputs`."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    value = function(*inputs)
    return value.detach(), [x.detach() for x in torch.autograd.grad(value, inputs, materialize_grads=True)]


def size(x: Tensor) -> float:
    """The sum of absolute values."""
    return float(x.abs().sum())


def works_with_pytorch(function: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """fullgraph, torch.func.grad, autocast, retain_graph, and gradients of a scaled loss; `function` is x ->
    0-d.
    """
    value, (grad,) = value_and_grads(function, x)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    again, (grad_again,) = value_and_grads(compiled, x)
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(grad_again, grad)
    torch.testing.assert_close(torch.func.grad(function)(x), grad)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        inside, _ = value_and_grads(function, x)
    assert inside.dtype == value.dtype
    torch.testing.assert_close(inside, value)
    leaf = x.clone().requires_grad_()
    loss = function(leaf)
    (first,) = torch.autograd.grad(3 * loss, leaf, retain_graph=True)
    (second,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(first, 3 * grad)
    torch.testing.assert_close(second, grad)


def gradcheck(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """torch.autograd.gradcheck in float64."""
    assert torch.autograd.gradcheck(
        function, tuple(x.detach().double().clone().requires_grad_() for x in inputs)
    )


def refuses(kind: type[Exception], match: str, function: Callable, *args, **keywords) -> None:
    """The call raises `kind` with a sentence that matches."""
    with pytest.raises(kind, match=match):
        function(*args, **keywords)


def peak_bytes(step: Callable[[], object]) -> int:
    """The most memory that CPU tensors held at once during a step, beyond what was held before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
