"""Relational distillation by distances: the pairwise distances of a batch, relative to their mean.

Park et al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068, eqs. 5-7.

Plain PyTorch on every backend: nearly all of the work is torch.cdist, which is one kernel and keeps no [B, B,
D] tensor; what is left is B^2 numbers under a Huber loss, which no kernel of this library has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero, divide, safe_norm
from kdfast.ops.similarity_preserving import check_batches


def rkd_distance_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: the mean over pairs (i, j) of the Huber loss of d_ij / mean d."""
    compute = compute_type(student, teacher)
    s, t = (x.flatten(1).to(compute) for x in (student, teacher.detach()))
    s, t = (_relative(safe_norm(x.unsqueeze(0) - x.unsqueeze(1))) for x in (s, t))
    return F.smooth_l1_loss(s, t) if s.numel() else attached_zero(student, compute)


def _relative(distance: Tensor) -> Tensor:
    rows = distance.size(0)
    return divide(distance, distance.sum() / max(rows * (rows - 1), 1))


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the batch's distance matrices, each divided by its mean; no [B, B, D] tensor.

    Args:
        student: embeddings [B, ...], flattened; gets the gradient. Equal embeddings have distance 0 and no
            gradient.
        teacher: embeddings [B, ...] of any width; a constant.

    Returns 0-d, float32 (float64 if an input is): the mean over the B^2 pairs. 0 for B <= 1.
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    check_batches(student, teacher)
    compute = compute_type(student, teacher)
    if student.size(0) == 0:
        return attached_zero(student, compute)
    # Differences, not |x|^2 + |y|^2 - 2 xy, which cancels for near neighbours.
    plain = "donot_use_mm_for_euclid_dist"
    s, t = (x.flatten(1).to(compute) for x in (student, teacher.detach()))
    s, t = (_relative(torch.cdist(x, x, compute_mode=plain)) for x in (s, t))
    return F.smooth_l1_loss(s, t)
