"""Hierarchical context loss (HCL): squared errors at full size and of pooled maps.

Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv 2104.09044, section 3.4.

Plain PyTorch on every backend: the levels' gradients overlap at every position and are added in float32
before the student's dtype rounds them once. A kernel call a level (hint_mse of the map and of its pools)
would round each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kdfast.ops import _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero

LEVELS = (4, 2, 1)


def hcl_loss_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: MSE + 1/2 MSE of 4 x 4 pools + 1/4 of 2 x 2 ... over the sum of the weights; pools
    below H only.
    """
    compute = compute_type(student, teacher)
    s, t = student.to(compute), teacher.detach().to(compute)
    total, weights = F.mse_loss(s, t), 1.0
    for k, size in enumerate(n for n in LEVELS if n < s.size(2)):
        pooled = F.mse_loss(F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size))
        total, weights = total + pooled / 2 ** (k + 1), weights + 0.5 ** (k + 1)
    return total / weights


def hcl_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss of one level of ReviewKD; add the levels up.

    Pooling is linear, so the difference is taken once and pooled, not both sides.

    Args:
        student, teacher: maps [B, C, H, W]. The student gets the gradient.

    Returns 0-d, float32 (float64 if an input is); 0 for no elements.
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 4, "[batch, channels, height, width]")
    compute = compute_type(student, teacher)
    if student.numel() == 0:
        return attached_zero(student, compute)
    difference = student.to(compute) - teacher.detach().to(compute)
    total, weight, weights = difference.square().mean(), 1.0, 1.0
    for size in (n for n in LEVELS if n < student.size(2)):
        weight /= 2
        weights += weight
        total = total + weight * F.adaptive_avg_pool2d(difference, size).square().mean()
    return total / weights


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.randn(2, 6, 8, 8, generator=generator) for _ in range(2)], {}
