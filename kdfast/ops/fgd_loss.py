"""Focal and attention distillation of detectors' feature maps (FGD without its global relation block).

Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022, arXiv 2111.11837, eqs. 5-10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops.box_weights import box_weights_reference, check_boxes, weights_for_loss
from kdfast.ops.weighted_mse import weighted_mse, weighted_mse_reference


def attention(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Spatial [B, HW] and channel [B, C] attention of maps [B, C, HW]: N softmax(mean |x| / T) over the N
    entries.
    """
    size = x.abs()
    spatial, channel = size.mean(1), size.mean(2)
    return (
        spatial.size(1) * (spatial / temperature).softmax(1),
        channel.size(1) * (channel / temperature).softmax(1),
    )


def fgd_loss_reference(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Tensor],
    *,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 1e-3,
) -> Tensor:
    """The definition, by the kernels' definitions."""
    joined = (
        torch.cat([b.float() for b in boxes]) if boxes else student.new_zeros((0, 4), dtype=torch.float32)
    )
    counts, shapes = [b.size(0) for b in boxes], [tuple(student.shape[2:])]
    weight = box_weights_reference(joined, counts, shapes, alpha, beta, None, compute_type(student, teacher))
    return _loss(weighted_mse_reference, student, teacher, weight, temperature, gamma)


def _loss(
    weighted, student: Tensor, teacher: Tensor, weight: Tensor, temperature: float, gamma: float
) -> Tensor:
    compute = compute_type(student, teacher)
    s_spatial, s_channel = attention(student.flatten(2).to(compute), temperature)
    t_spatial, t_channel = attention(teacher.detach().flatten(2).to(compute), temperature)
    tokens = (x.flatten(2).mT for x in (student, teacher))
    focal = weighted(*tokens, position=weight * t_spatial, gain=t_channel)[0]
    imitation = (s_spatial - t_spatial).abs().sum() + (s_channel - t_channel).abs().sum()
    return (focal + gamma * imitation) / max(student.size(0), 1)


def fgd_loss(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Tensor],
    *,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 1e-3,
) -> Tensor:
    """Squared errors weighed by the teacher's attention, apart for foreground and background, and L1 between
    attentions.

    (1/B) sum over b, p, c of W_bp A_bp A_bc (t - s)^2 + gamma (|A_s - A_t|_1 by position + by channel), with
    W from `box_weights` (alpha / smallest box, beta / background) and A the teacher's spatial and channel
    attention.

    Args:
        student, teacher: maps [B, C, H, W] of one level. The student gets the gradient.
        boxes: B tensors [n, 4] in normalised cxcywh of the padded input.
        temperature: of the attentions' softmax, above 0.
        alpha, beta, gamma: the paper's weights for anchor-based one-stage detectors.

    Returns 0-d, float32 (float64 if an input is). Raises TypeError, ValueError or RuntimeError for bad input.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 4, "[batch, channels, height, width]")
    if 0 in student.shape[2:]:
        raise ValueError(f"student must be at least 1 high and wide, got shape {tuple(student.shape)}")
    check_boxes(boxes, [tuple(student.shape[2:])])
    if len(boxes) != student.size(0):
        raise ValueError(f"boxes must hold one tensor an image, {student.size(0)}, got {len(boxes)}")
    temperature = _check.positive("temperature", temperature)
    for name, x in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        _check_features.not_negative(name, x)
    if not boxes:
        return fgd_loss_reference(student, teacher, boxes, temperature=temperature)
    _check.same_device("boxes[0]", boxes[0], "student", student)
    compute = compute_type(student, teacher)
    weight = weights_for_loss(boxes, [tuple(student.shape[2:])], alpha=alpha, beta=beta, dtype=compute)
    return _loss(weighted_mse, student, teacher, weight, temperature, gamma)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    boxes = [torch.tensor([[0.4, 0.5, 0.5, 0.4]]), torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.7, 0.5, 0.4]])]
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 6, 8, 8), make(2, 6, 8, 8), boxes], {"alpha": 1.0, "beta": 0.5, "gamma": 1.0}
