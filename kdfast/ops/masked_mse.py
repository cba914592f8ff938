"""Feature imitation under learned masks, spatial and by channel (ACAM-KD; the spatial form is MasKD's).

Lan & Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV 2025,
arXiv 2503.06307. With D = teacher - student everything goes through e_p = sum_c D_cp^2 and g_c = sum_p
D_cp^2: no [B, M, C, H, W] tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero, divide
from kdfast.ops.weighted_mse import weighted_mse


def masked_mse_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    spatial: Tensor | None = None,
    channel: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """The definition, eqs. for L_s and L_c with the algebra above."""
    compute = compute_type(student, teacher)
    square = (teacher.detach().to(compute) - student.to(compute)).square().flatten(2)  # [B, C, N]
    zero = attached_zero(student, compute)
    _, channels, positions = square.shape

    def loss(masks: Tensor | None, errors: Tensor, count: int) -> Tensor:
        if masks is None:
            return zero
        if masks.numel() == 0:
            return zero + attached_zero(masks, compute)
        masks = masks.to(compute).flatten(2)  # [B, M, N] or [B, M, C]
        numerator = (masks.square() * errors.unsqueeze(1)).sum(-1)
        return divide(numerator, count * masks.sum(-1) + eps).mean()

    return loss(spatial, square.sum(1), channels), loss(channel, square.sum(2), positions)


def masked_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    spatial: Tensor | None = None,
    channel: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Mean squared error under spatial masks and under channel masks, each divided by its mask's mass.

    loss_spatial = mean_{b,m} sum_p M_mp^2 e_p / (C sum_p M_mp + eps), loss_channel = mean_{b,m} sum_c M_mc^2
    g_c / (HW sum_c M_mc + eps). Masks of ones give the mean squared error, masks of 0.5 half of it (up to
    eps).

    Args:
        student, teacher: maps [B, C, H, W], any dtypes and layouts. The student gets a gradient, the teacher
            none.
        spatial: masks [B, M, H, W], not negative; get a gradient.
        channel: masks [B, M, C], not negative, another M allowed; get a gradient.
        eps: added to the denominators; 0 is allowed (a mask of zeros then counts 0).

    Returns:
        (loss_spatial, loss_channel), 0-d, float32 (float64 if student or teacher is); 0 for an absent mask.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 4, "[batch, channels, height, width]")
    eps = _check_features.not_negative("eps", eps)
    batch, channels, height, width = student.shape
    for name, masks, sizes in (("spatial", spatial, (height, width)), ("channel", channel, (channels,))):
        if masks is None:
            continue
        _check.floating(name, masks)
        if masks.dim() != 2 + len(sizes) or masks.size(0) != batch or tuple(masks.shape[2:]) != sizes:
            wanted = ", ".join(map(str, (batch, "masks", *sizes)))
            raise ValueError(
                f"{name} must be [{wanted}] for a student of shape {tuple(student.shape)}, "
                f"got {tuple(masks.shape)}"
            )
        _check.same_device(name, masks, "student", student)
    if backend.of(student, "weighted_mse") == "reference":
        return masked_mse_reference(student, teacher, spatial=spatial, channel=channel, eps=eps)
    tokens = (x.flatten(2).mT for x in (student, teacher.detach()))
    compute = compute_type(student, teacher)
    return weighted_mse(
        *tokens,
        position=None if spatial is None else _weights(spatial.to(compute), channels, eps),
        channel=None if channel is None else _weights(channel.to(compute), height * width, eps),
    )


def _weights(masks: Tensor, count: int, eps: float) -> Tensor:
    """What every squared error is multiplied by: mean_{b,m} of M^2 / (count * sum M + eps). [B, M, ...] ->
    [B, positions].
    """
    masks = masks.flatten(2)
    if masks.numel() == 0:
        return masks.sum(1)
    share = divide(masks.new_ones(()), count * masks.sum(2, keepdim=True) + eps) / masks[:, :, 0].numel()
    return (masks.square() * share).sum(1)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    keywords = {"spatial": make(2, 3, 8, 8).sigmoid(), "channel": make(2, 3, 6).sigmoid()}
    return [make(2, 6, 8, 8), make(2, 6, 8, 8)], keywords
