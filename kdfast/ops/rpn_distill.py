"""Distillation of a region proposal network: filtered objectness and gated deltas, L_rpn of Dynamic Y-KD
(arXiv 2303.06015).

From Faster-ILOD and MMA: only what the teacher holds for more of an object than the student does is
distilled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._divergence import compute_type
from kdfast.ops._features import attached_zero


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
    compute = compute_type(student_logits, teacher_logits)
    if student_logits.numel() == 0:
        return attached_zero(student_logits, compute), attached_zero(student_deltas, compute)
    d = teacher_logits.detach().to(compute) - student_logits.to(compute)  # [B, A, h, w]
    difference = student_deltas.to(compute) - teacher_deltas.detach().to(compute)
    square = difference.square().unflatten(1, (d.size(1), 4)).sum(2)
    return d.clamp(min=0).square().mean(), torch.where(d.detach() > threshold, square, 0).mean()


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
    return rpn_distill_reference(
        student_logits,
        teacher_logits,
        student_deltas,
        teacher_deltas,
        threshold=_check.number("threshold", threshold),
    )
