"""Similarity-preserving distillation (SP): samples that look alike to the teacher shall look alike to the
student.

Tung & Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv 1907.09682.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import compute_type
from kdfast.ops._product import product
from kdfast.ops.normalized_mse import normalized_mse, normalized_mse_reference


def _gram(x: Tensor, compute: torch.dtype) -> Tensor:
    x = x.flatten(1).to(compute)
    return product(x, x.mT)


def similarity_preserving_reference(student: Tensor, teacher: Tensor, *, eps: float = 1e-12) -> Tensor:
    """The definition: |G_s - G_t|_F^2 / B^2, G = X X^T with rows normalised (eqs. 1-4)."""
    compute = compute_type(student, teacher)
    s, t = _gram(student, compute), _gram(teacher.detach(), compute)
    return normalized_mse_reference(s, t, eps=eps, reduction="sum") / max(student.size(0), 1) ** 2


def similarity_preserving(student: Tensor, teacher: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Squared distance of the batch's row-normalised similarity matrices, / B^2.

    Args:
        student: features [B, ...]; gets the gradient.
        teacher: features [B, ...] of any other shape beyond the batch; a constant.
        eps: smallest norm of a row that is divided by.

    Returns 0-d, float32 (float64 if an input is). Raises TypeError, ValueError or RuntimeError for bad input.
    """
    check_batches(student, teacher)
    compute = compute_type(student, teacher)
    s, t = _gram(student, compute), _gram(teacher.detach(), compute)
    return normalized_mse(s, t, eps=eps, reduction="sum") / max(student.size(0), 1) ** 2


def check_batches(student: object, teacher: object) -> None:
    """Float tensors [B, ...] with one B: TypeError, ValueError, RuntimeError."""
    _check.floating("student", student)
    _check.floating("teacher", teacher)
    if student.dim() < 2 or teacher.dim() < 2 or student.size(0) != teacher.size(0):
        raise ValueError(
            "student and teacher must be [batch, ...] with one batch, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    _check.same_device("student", student, "teacher", teacher)
