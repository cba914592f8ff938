"""Soft binary cross-entropy between mask logits, old classes only: L_mask of Dynamic Y-KD (arXiv
2303.06015), from MMA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.ops._divergence import compute_type
from kdfast.ops._features import attached_zero
from kdfast.ops.class_box_l2 import check_old_classes


def soft_bce_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: the mean of max(x, 0) - x y + log1p(e^-|x|), y = sigmoid(teacher): finite for
    saturated targets.
    """
    compute = compute_type(student, teacher)
    if student.numel() == 0:
        return attached_zero(student, compute)
    x, y = student[:, : teacher.size(1)].to(compute), teacher.detach().to(compute).sigmoid()
    return (x.clamp(min=0) - x * y + torch.log1p(torch.exp(-x.abs()))).mean()


def soft_bce(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy of mask logits against sigmoid(teacher), the mean over [R, K, H, W], background
    included.

    Args:
        student: logits [R, K + new, H, W]; gets the gradient, 0 for new classes.
        teacher: logits [R, K, H, W]; a constant.

    Returns 0-d, float32 (float64 if an input is); 0 for R = 0.
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    check_old_classes(student, teacher, 4, "[proposals, classes, height, width]")
    if student.numel() == 0:
        return soft_bce_reference(student, teacher)
    compute = compute_type(student, teacher)
    x, y = student[:, : teacher.size(1)].to(compute), teacher.detach().to(compute).sigmoid()
    return F.binary_cross_entropy_with_logits(x, y)  # half the passes over memory of the definition's
