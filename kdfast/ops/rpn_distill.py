"""Distillation of a region proposal network: filtered objectness and gated deltas, L_rpn of Dynamic Y-KD
(arXiv 2303.06015).

From Faster-ILOD and MMA: only what the teacher holds for more of an object than the student does is
distilled.
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
from kdfast.ops._pairs import makes_gradient
from kdfast.ops.scale_grad import scale_grad


def rpn_distill_reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_deltas: Tensor,
    teacher_deltas: Tensor,
    *,
    threshold: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """The definition. d = teacher - student logit: mean of max(d, 0)^2, and of [d > threshold] * |delta
    difference|^2.
    """
    compute = compute_type(student_logits, teacher_logits, student_deltas, teacher_deltas)
    if student_logits.numel() == 0:
        return attached_zero(student_logits, compute), attached_zero(student_deltas, compute)
    d = teacher_logits.detach().to(compute) - student_logits.to(compute)  # [B, A, h, w]
    difference = student_deltas.to(compute) - teacher_deltas.detach().to(compute)
    gate = (d.detach() > threshold).unsqueeze(2)
    gated = torch.where(gate, difference.unflatten(1, (d.size(1), 4)), 0)
    return d.clamp(min=0).square().mean(), gated.square().sum(2).mean()


class RpnDistill(Function):
    """The ops rpn_distill and rpn_distill_backward of a backend, over logits [B, A, P] and deltas [B, 4 A,
    P].
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        student_logits, teacher_logits, student_deltas, teacher_deltas, kernels, threshold, with_grad
    ):
        op = backend.ops(kernels).rpn_distill
        return op(student_logits, teacher_logits, student_deltas, teacher_deltas, threshold, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.kernels, ctx.threshold, ctx.with_grad = inputs
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)
        ctx.name = "rpn_distill"
        ctx.save_for_backward(*(output if ctx.with_grad else (output[0], output[1], *tensors)))

    @staticmethod
    @once_differentiable
    def backward(ctx, up_objectness, up_boxes, *_):
        value, _, *saved = ctx.saved_tensors
        zero = torch.zeros_like(value)
        ups = [zero if up is None else up for up in (up_objectness, up_boxes)]
        if ctx.with_grad:
            logits, deltas = (scale_grad(grad, up, ctx.kernels) for grad, up in zip(saved, ups, strict=True))
        else:
            logits, deltas = backend.ops(ctx.kernels).rpn_distill_backward(*ups, *saved, ctx.threshold)
        wanted = ctx.needs_input_grad
        return logits if wanted[0] else None, None, deltas if wanted[2] else None, *(None,) * 4


def rpn_distill(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_deltas: Tensor,
    teacher_deltas: Tensor,
    *,
    threshold: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Filtered L2 of objectness logits and L2 of box deltas, gated by anchors whose objectness the teacher
    rates higher.

    Args:
        student_logits, teacher_logits: raw objectness [B, A, h, w] of one level. The student's get a
            gradient.
        student_deltas, teacher_deltas: box deltas [B, 4 A, h, w], channel = 4 * anchor + coordinate.
        threshold: an anchor's deltas count where teacher - student objectness is above it.

    Returns:
        (objectness, boxes), 0-d, float32 (float64 if an input is), each a mean over all B A h w anchors; the
        gate is a constant. 0 where there is no anchor.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student_logits, teacher_logits, names=("student_logits", "teacher_logits"))
    _check_features.pair(student_deltas, teacher_deltas, names=("student_deltas", "teacher_deltas"))
    _check_features.ndim("student_logits", student_logits, 4, "[batch, anchors, height, width]")
    batch, anchors, height, width = student_logits.shape
    _check_features.shape(
        "student_deltas", student_deltas, (batch, 4 * anchors, height, width), "[batch, 4 anchors, ...]"
    )
    _check.same_device("student_deltas", student_deltas, "student_logits", student_logits)
    threshold = _check.number("threshold", threshold)
    if threshold != threshold:
        raise ValueError("threshold must be a number or an infinity, got nan")
    kernels = backend.of(student_logits, "rpn_distill")
    if kernels == "reference" or student_logits.numel() == 0:
        return rpn_distill_reference(
            student_logits, teacher_logits, student_deltas, teacher_deltas, threshold=threshold
        )
    maps = student_logits, teacher_logits.detach(), student_deltas, teacher_deltas.detach()
    half = torch.float16 in (student_logits.dtype, student_deltas.dtype)
    with_grad = not half and (makes_gradient(student_logits) or makes_gradient(student_deltas))
    losses = RpnDistill.apply(*(x.flatten(2) for x in maps), kernels, threshold, with_grad)
    # The op is one node for both losses; each is a constant where its own student is one.
    return tuple(
        loss if x.requires_grad else loss.detach()
        for loss, x in zip(losses, (student_logits, student_deltas), strict=False)
    )


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(student_logits, teacher_logits, student_deltas, teacher_deltas, threshold, with_grad):
    compute = compute_type(student_logits, teacher_logits, student_deltas, teacher_deltas)
    grads = [
        torch.empty_like(x) if with_grad else x.new_empty(0, dtype=compute)
        for x in (student_logits, student_deltas)
    ]
    return *(student_logits.new_empty((), dtype=compute) for _ in range(2)), *grads


register_fake("rpn_distill", _fake)
register_fake(
    "rpn_distill_backward",
    lambda u, v, logits, _, deltas, *rest: (torch.empty_like(logits), torch.empty_like(deltas)),
)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 3, 8, 8), make(2, 3, 8, 8), make(2, 12, 8, 8), make(2, 12, 8, 8)], {}
