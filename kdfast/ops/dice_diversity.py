"""How much a sample's masks overlap: the diversity loss of ACAM-KD (ICCV 2025) and of MasKD (ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._features import attached_zero, divide

FORMS = ("ratio_of_sums", "pairwise_mean")
# Masks that training shrinks reach 1e-25, whose squares are no float32 numbers any more. The overlap does not
# depend on a sample's scale, so its largest element is made 1 first; masks below SMALLEST count as zeros.
SMALLEST, SMALLEST_SQUARE = 1e-18, 1e-20


def dice_diversity_reference(masks: Tensor, *, form: str = "ratio_of_sums") -> Tensor:
    """The definition, over the Gram matrix G = M M^T of a sample's masks, averaged over the batch."""
    compute = torch.float64 if masks.dtype == torch.float64 else torch.float32
    masks = masks.to(compute).flatten(2) if masks.dim() > 2 else masks.to(compute).unsqueeze(-1)
    batch, count, _ = masks.shape
    if batch == 0 or count < 2 or masks.numel() == 0:
        return attached_zero(masks, compute)
    masks = masks / masks.detach().abs().amax((1, 2), keepdim=True).clamp(min=SMALLEST)
    gram = (masks.unsqueeze(1) * masks.unsqueeze(2)).sum(-1)  # [B, M, M]
    square = gram.diagonal(dim1=1, dim2=2)  # [B, M]
    other = ~torch.eye(count, dtype=torch.bool, device=masks.device)
    if form == "ratio_of_sums":
        return divide((gram * other).sum((1, 2)), _mass(square.sum(1))).mean()
    pairs = divide(2 * gram, _mass(square.unsqueeze(1) + square.unsqueeze(2)))
    return (pairs * other).sum((1, 2)).mean() / (count * (count - 1))


def _mass(square: Tensor) -> Tensor:
    """A denominator, 0 where its reciprocal would overflow in a gradient."""
    return torch.where(square < SMALLEST_SQUARE, 0, square)


def dice_diversity(masks: Tensor, *, form: str = "ratio_of_sums") -> Tensor:
    """Dice overlap of every sample's masks with one another; 0 where nothing overlaps.

    "ratio_of_sums": sum_{i != j} 2 M_i.M_j over sum_{i, j} halves of |M_i|^2 + |M_j|^2, as the paper prints
    it; through column sums it is (|sum_m M_m|^2 - sum_m |M_m|^2) / sum_m |M_m|^2. Identical masks give M - 1.
    "pairwise_mean": the mean over i != j of 2 M_i.M_j / (|M_i|^2 + |M_j|^2). Identical masks give 1.

    Args:
        masks: [B, M, ...], any float dtype; gets the gradient.
        form: which of the two.

    Returns:
        0-d, float32 (float64 for float64 masks): the mean over the batch. 0 for M = 1, for masks of zeros,
        for B = 0.

    Raises TypeError or ValueError for bad input, before anything runs.
    """
    _check.floating("masks", masks)
    if masks.dim() < 2:
        raise ValueError(f"masks must be [batch, masks, ...], got shape {tuple(masks.shape)}")
    _check_features.option("form", form, FORMS)
    return dice_diversity_reference(masks, form=form)
