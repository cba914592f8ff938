"""Hint regression: the mean squared error between features, after an adapter where widths differ.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, eq. 3 without its factor 1/2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero
from kdfast.ops.weighted_mse import weighted_mse


def hint_mse_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: mean (student - teacher)^2, 0 for no elements."""
    compute = compute_type(student, teacher)
    if student.numel() == 0:
        return attached_zero(student, compute)
    return (student.to(compute) - teacher.detach().to(compute)).square().mean()


def hint_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (student - teacher)^2 over features of any one shape, computed in float32 (float64) whatever the
    dtypes.

    Unlike F.mse_loss it takes mixed dtypes, never sums in half precision, and is 0 for an empty batch.

    Returns 0-d, float32 (float64 if an input is). Raises TypeError, ValueError or RuntimeError for bad input.
    """
    _check_features.pair(student, teacher)
    compute = compute_type(student, teacher)
    if student.numel() == 0:
        return attached_zero(student, compute)
    student, teacher = (
        x.reshape(x.size(0) if x.dim() > 2 else 1, -1, x.size(-1) if x.dim() else 1)
        for x in (student, teacher)
    )
    weight = torch.full(student.shape[:2], 1 / student.numel(), dtype=compute, device=student.device)
    return weighted_mse(student, teacher, position=weight)[0]
