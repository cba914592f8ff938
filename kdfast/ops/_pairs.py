"""The losses whose pairs are the numbers of two rows, student [R, m] and teacher [R, n] with m >= n: their
autograd function and their fake kernels.

Which of a row's numbers are paired is the op's own affair (csrc/common/pairs_op.h).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import scale_grad


def makes_gradient(student: Tensor) -> bool:
    """Whether a scalar loss makes the student's gradient in its forward pass."""
    # A float16 student's would underflow: a loss scaler's factor is not known yet.
    return student.requires_grad and torch.is_grad_enabled() and student.dtype != torch.float16


class RowPairs(Function):
    """The ops `name` and `name_backward` of a backend: one number from all pairs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, name, kernels, with_grad):
        return getattr(backend.ops(kernels), name)(student, teacher, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, ctx.name, ctx.kernels, ctx.with_grad = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*((output[1],) if ctx.with_grad else (student, teacher)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        if grad_value is None:
            return (None,) * 5
        if ctx.with_grad:
            return scale_grad(*ctx.saved_tensors, grad_value, ctx.kernels), *(None,) * 4
        op = getattr(backend.ops(ctx.kernels), ctx.name + "_backward")
        return op(grad_value, *ctx.saved_tensors), *(None,) * 4


def row_pairs(name: str, kernels: str, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss `name` of [R, ...] tensors with checked arguments, 0-d."""
    rows = student.flatten(1), teacher.detach().flatten(1)
    return RowPairs.apply(*rows, name, kernels, makes_gradient(student))[0]


def register_row_pairs(name: str) -> None:
    """The fake kernels of an op and its backward."""

    def fake(student, teacher, with_grad):
        compute = compute_type(student, teacher)
        grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
        return student.new_empty((), dtype=compute), grad

    register_fake(name, fake)
    register_fake(f"{name}_backward", lambda up, student, teacher: torch.empty_like(student))
