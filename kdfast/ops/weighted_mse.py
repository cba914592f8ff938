"""Sums of squared errors under weights of positions and of channels: the kernel below the losses on feature
maps.

    value_position = sum_{b,p} a_bp e_bp,   e_bp = sum_c v_bc (t - s)_bpc^2
    value_channel  = sum_{b,c} b_bc g_bc,   g_bc = sum_p (t - s)_bpc^2

One pass over student and teacher gives both, the errors e and g (the gradients of a and b) and the student's
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._features import attached_zero
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import keeps_grad, scale_grad


def weighted_mse_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    position: Tensor | None = None,
    channel: Tensor | None = None,
    gain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, over [B, P, C]."""
    compute = compute_type(student, teacher)
    s, t = student.to(compute), teacher.detach().to(compute)
    values = []
    for weight, summed in ((position, 2), (channel, 1)):
        if weight is None:
            values.append(attached_zero(student, compute))
            continue
        # By selection: where the weight is 0 (padding) NaN is harmless.
        dropped = (weight == 0).unsqueeze(summed) & ~(t - s).isfinite()
        square = torch.where(dropped, 0, torch.where(dropped, 0, t) - torch.where(dropped, 0, s)).square()
        if summed == 2 and gain is not None:
            square = square * gain.detach().to(compute).unsqueeze(1)
        values.append((weight.to(compute) * square.sum(summed)).sum())
    return values[0], values[1]


class WeightedMSE(Function):
    """The ops weighted_mse, weighted_mse_backward and weighted_mse_redo_ of a backend.

    The student's gradient is made in the forward pass as if both upstream gradients were one number, which
    they are where the two losses are added up. Whether they are is seen in the backward pass on the device:
    if not, it is made again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, position, channel, gain, kernels, with_grad):
        return backend.ops(kernels).weighted_mse(student, teacher, position, channel, gain, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, position, channel, gain, ctx.kernels, ctx.with_grad = inputs
        _, _, e, g, grad = output
        ctx.mark_non_differentiable(e, g, grad)
        ctx.set_materialize_grads(False)
        ctx.name = "weighted_mse"
        ctx.save_for_backward(student, teacher, position, channel, gain, e, g, grad)

    @staticmethod
    @once_differentiable
    def backward(ctx, up_position, up_channel, *_):
        *inputs, e, g, grad = ctx.saved_tensors
        _, _, position, channel, _ = inputs
        zero = e.new_zeros(())
        up_position = zero if up_position is None or position is None else up_position
        up_channel = zero if up_channel is None or channel is None else up_channel
        grad_student = None
        if ctx.needs_input_grad[0]:
            grad_student = _student_grad(ctx, inputs, grad, up_position, up_channel)
        grad_position = up_position * e if ctx.needs_input_grad[2] else None
        grad_channel = up_channel * g if ctx.needs_input_grad[3] else None
        return grad_student, None, grad_position, grad_channel, None, None, None


def _student_grad(ctx, inputs: list[Tensor], grad: Tensor, up_position: Tensor, up_channel: Tensor) -> Tensor:
    _, _, position, channel, _ = inputs
    op = backend.ops(ctx.kernels)
    if not ctx.with_grad:
        return op.weighted_mse_backward(up_position, up_channel, *inputs)
    if position is None or channel is None:
        return scale_grad(grad, up_channel if position is None else up_position, ctx.kernels)
    if keeps_grad():
        return op.weighted_mse_backward(up_position, up_channel, *inputs)
    op.scale_grad_(grad, torch.where(up_position == up_channel, up_position, 1))
    op.weighted_mse_redo_(grad, up_position, up_channel, *inputs)
    return grad


def weighted_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    position: Tensor | None = None,
    channel: Tensor | None = None,
    gain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Squared errors summed under a weight for each position, and under a weight for each channel.

    Args:
        student, teacher: [B, P, C] (tokens; a map's view is `x.flatten(2).mT`), any dtypes and strides. The
            student gets a gradient.
        position: weights [B, P]; get a gradient.
        channel: weights [B, C]; get a gradient.
        gain: [B, C], multiplies the squared errors of the first sum by channel; a constant.

    Returns:
        (sum of position * gain * squared errors, sum of channel * squared errors), 0-d, float32 (float64 if
        student or teacher is); 0 for absent weights. A weight of 0 drops what it belongs to: NaN there is
        harmless.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 3, "[batch, positions, channels]")
    batch, positions, channels = student.shape
    for name, weight, size in (
        ("position", position, positions),
        ("channel", channel, channels),
        ("gain", gain, channels),
    ):
        if weight is not None:
            _check.floating(name, weight)
            _check_features.shape(
                name, weight, (batch, size), f"[batch, {'positions' if name == 'position' else 'channels'}]"
            )
            _check.same_device(name, weight, "student", student)
    kernels = backend.of(student, "weighted_mse")
    if kernels == "reference":
        return weighted_mse_reference(student, teacher, position=position, channel=channel, gain=gain)
    compute = compute_type(student, teacher)
    position, channel, gain = (
        None if x is None else x.to(compute).contiguous() for x in (position, channel, gain)
    )
    with_grad = (
        student.requires_grad
        and torch.is_grad_enabled()
        and student.dtype != torch.float16  # a loss scaler's factor is not known yet
        and not (position is None and channel is None)
    )
    gain = None if gain is None else gain.detach()
    by_position, by_channel, *_ = WeightedMSE.apply(
        student, teacher.detach(), position, channel, gain, kernels, with_grad
    )
    return by_position, by_channel


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(student, teacher, position, channel, gain, with_grad):
    compute = compute_type(student, teacher)
    none = student.new_empty(0, dtype=compute)
    e = none if position is None else torch.empty_like(position)
    g = student.new_empty(0, dtype=compute) if channel is None else torch.empty_like(channel)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    return student.new_empty((), dtype=compute), student.new_empty((), dtype=compute), e, g, grad


register_fake("weighted_mse", _fake)
register_fake("weighted_mse_backward", lambda u, w, student, *_: torch.empty_like(student))
register_fake("weighted_mse_redo_", lambda *_: None)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 8, 6), make(2, 8, 6)], {"position": make(2, 8).sigmoid(), "channel": make(2, 6).sigmoid()}
