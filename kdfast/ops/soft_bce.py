"""Soft binary cross-entropy between mask logits, old classes only: L_mask of Dynamic Y-KD (arXiv
2303.06015), from MMA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast import backend
from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero
from kdfast.ops._pairs import register_row_pairs, row_pairs
from kdfast.ops.class_box_l2 import check_old_classes


def soft_bce_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: the mean of y log(1 + e^-x) + (1 - y) log(1 + e^x), y = sigmoid(teacher): finite for
    saturated targets, and 1 - y is sigmoid(-teacher), which keeps its digits.
    """
    compute = compute_type(student, teacher)
    if student.numel() == 0:
        return attached_zero(student, compute)
    x, t = student[:, : teacher.size(1)].to(compute), teacher.detach().to(compute)
    return -(t.sigmoid() * F.logsigmoid(x) + (-t).sigmoid() * F.logsigmoid(-x)).mean()


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
    kernels = backend.of(student, "soft_bce")
    if kernels == "reference" or student.numel() == 0:
        return soft_bce_reference(student, teacher)
    return row_pairs("soft_bce", kernels, student, teacher)


register_row_pairs("soft_bce")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.randn(2, 6, 8, 8, generator=generator) for _ in range(2)], {}
