"""What the losses on rows of logits share in Python: the autograd function over their ops, and the fakes.

Their schema is one: see csrc/common/row_loss_op.h. One value and a scalar reduction: the gradient is made in
the forward pass (not in float16, where it would underflow before a loss scaler's factor is known). Two
values, whose upstream factors are not known then, or one value per row: the backward pass goes over the
inputs again, with the few numbers a row (`state`) that some losses keep.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import compute_type
from kdfast.ops._divergence import one_class_dim
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import scale_grad

NOTHING_IGNORED = -(2**63)
_WEIGHT_PADDING = 16  # classes: a whole vector, at every instruction level


class Options(NamedTuple):
    """Everything an op takes beside tensors, in the order of its schema."""

    dim: list[int]
    temperature: float = 1.0
    scale: float = 1.0
    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    ignore_index: int = NOTHING_IGNORED


class RowLoss(Function):
    """The ops `name` and `name_backward` of a backend, as one differentiable function of the student."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, index, sparse, weight, mask, name, kernels, options, reduction, with_grad):
        op = getattr(backend.ops(kernels), name)
        return op(student, teacher, index, sparse, weight, mask, *options, reduction, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, name, kernels, options, _, with_grad = inputs
        value, second, grad, state, norm, second_norm = output
        ctx.two = second_norm.dim() == 0
        ctx.mark_non_differentiable(*(() if ctx.two else (second,)), grad, state, norm, second_norm)
        ctx.set_materialize_grads(False)
        ctx.name, ctx.kernels, ctx.options, ctx.with_grad = name, kernels, options, with_grad
        if with_grad:
            ctx.save_for_backward(grad, norm)
        else:
            ctx.save_for_backward(state, norm, second_norm, value, second, *tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, second_upstream, *_):
        nothing = (None,) * 10
        if upstream is None and second_upstream is None:
            return None, *nothing
        if ctx.with_grad:
            grad, norm = ctx.saved_tensors
            return scale_grad(grad, upstream * norm, ctx.kernels), *nothing
        state, norm, second_norm, value, second, *tensors = ctx.saved_tensors
        if upstream is None:
            upstream = torch.zeros_like(value)
        if ctx.two and second_upstream is None:
            second_upstream = torch.zeros_like(second)
        op = getattr(backend.ops(ctx.kernels), ctx.name + "_backward")
        return op(
            upstream, second_upstream if ctx.two else None, state, norm, second_norm, *tensors, *ctx.options
        ), *nothing


def row_loss(
    name: str,
    kernels: str,
    student: Tensor,
    *,
    dim: tuple[int, ...],
    reduction: str,
    teacher: Tensor | None = None,
    index: Tensor | None = None,
    sparse: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    outputs: int = 1,
    **options: float,
) -> tuple[Tensor, ...]:
    """Calls the op `name` on checked arguments; as many values as the loss has."""
    compute = compute_type(student, *[x for x in (teacher, sparse) if x is not None])
    code, batch = _check.REDUCTIONS[reduction], 1
    if code == _check.REDUCTIONS["batchmean"] and 0 in dim:
        batch, code = student.size(0), _check.REDUCTIONS["sum"]
    student, teacher, class_dim = one_class_dim(student, None if teacher is None else teacher.detach(), dim)
    with_grad = code != 0 and outputs == 1 and student.dtype != torch.float16
    with_grad = with_grad and student.requires_grad and torch.is_grad_enabled()
    found = RowLoss.apply(
        student,
        teacher,
        None if index is None else index.detach().long().contiguous(),
        None if sparse is None else sparse.detach().to(compute).contiguous(),
        None if weight is None else padded_weight(weight, compute),
        None if mask is None else mask.detach().to(compute).contiguous(),
        name,
        kernels,
        Options(class_dim, **options),
        code,
        with_grad,
    )
    return tuple(x if batch == 1 else x / batch for x in found[:outputs])


def padded_weight(weight: Tensor, compute: torch.dtype) -> Tensor:
    """Class weights in the compute type, with zeros behind them, so that kernels read whole vectors."""
    missing = -weight.numel() % _WEIGHT_PADDING
    return torch.nn.functional.pad(weight.detach().to(compute), (0, missing))


def register_fakes(name: str, outputs: int = 1, state: int = 0) -> None:
    """Fake kernels of torch.ops.kdfast.<name> and <name>_backward, where the native library has them.

    state: numbers that the op keeps of a row.
    """

    def fake(student, teacher, index, sparse, weight, mask, dim, *rest):
        reduction, with_grad = rest[-2:]
        compute = compute_type(student, *[x for x in (teacher, sparse) if x is not None])
        sizes = [n for d, n in enumerate(student.shape) if d not in dim]
        new = lambda shape: student.new_empty(shape, dtype=compute)  # noqa: E731
        value = lambda: new(sizes if reduction == 0 else ())  # noqa: E731
        grad = torch.empty_like(student) if with_grad else new(0)
        two = outputs == 2
        kept = new((math.prod(sizes), state))
        return value(), value() if two else new(0), grad, kept, new(()), new(()) if two else new(0)

    register_fake(name, fake)
    register_fake(
        f"{name}_backward",
        lambda upstream, second, state, norm, second_norm, student, *_: torch.empty_like(student),
    )
