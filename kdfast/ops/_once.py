"""First derivatives only, and a clear error for the second: torch's own once_differentiable says nothing
where the upstream gradient is a constant, which leaves a gradient penalty silently without its effect.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _NoSecond(torch.autograd.Function):
    """A gradient, and an error for whoever asks for its own by one of the `anchors`."""

    @staticmethod
    def forward(ctx, grad: Tensor, name: str, *anchors: Tensor) -> Tensor:
        ctx.name = name
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(_sentence(ctx.name))


def _anchor(x: Tensor) -> Tensor:
    """An empty tensor that hangs on x's graph and holds none of its memory."""
    part = x if x.dim() else x.unsqueeze(0)
    return part.narrow(0, 0, 0).clone()


def remember_inputs(ctx: Any, inputs: tuple[Any, ...]) -> None:
    """Ties the gradients to the inputs' graphs: a second derivative by anything behind an input must meet the
    error, where autograd would otherwise leave this op's part out in silence."""
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return
    wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed]
    if wanted:
        with torch.enable_grad():
            ctx.anchors = [_anchor(x) for x in wanted]


def _sentence(name: str) -> str:
    return (
        f"kdfast: {name} has first derivatives only; for second derivatives use its definition, "
        'kdfast.functional on whole rows with kdfast.use("reference")'
    )


def _nested_grad_transforms() -> int:
    """How many torch.func.grad (or vjp, jacrev) transforms are around this call."""
    functorch = torch._C._functorch
    if functorch.maybe_current_level() is None:
        return 0
    return sum(layer.key() == functorch.TransformType.Grad for layer in functorch.get_interpreter_stack())


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """For an autograd.Function's backward; the function's context must hold its op's `name`."""

    @functools.wraps(backward)
    def once(ctx, *grads):
        if torch.compiler.is_compiling():
            return backward(ctx, *grads)
        if not torch.is_grad_enabled():
            return backward(ctx, *grads)
        with torch.no_grad():
            outs = backward(ctx, *grads)
        transforms = _nested_grad_transforms()
        if transforms > 1:
            raise RuntimeError(_sentence(ctx.name))
        if transforms == 1:
            return outs
        anchors = getattr(ctx, "anchors", None) or [torch.zeros((), requires_grad=True)]
        guard = lambda x: _NoSecond.apply(x, ctx.name, *anchors) if isinstance(x, Tensor) else x  # noqa: E731
        return tuple(guard(x) for x in outs)

    once.first_derivatives_only = True  # type: ignore[attr-defined]
    return once
