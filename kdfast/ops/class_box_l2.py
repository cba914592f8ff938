"""Distillation of class-specific box deltas, old classes only: L_box of Dynamic Y-KD (arXiv 2303.06015),
from ILOD and MMA.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._features import attached_zero
from kdfast.ops._pairs import register_row_pairs, row_pairs


def class_box_l2_reference(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition: the mean over proposals and over classes 1 ... K-1 of the squared distance of four
    deltas.
    """
    compute = compute_type(student, teacher)
    old = teacher.size(1)
    if student.size(0) == 0 or old < 2:
        return attached_zero(student, compute)
    difference = student[:, 1:old].to(compute) - teacher[:, 1:].detach().to(compute)
    return difference.square().sum(-1).mean()


def class_box_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """mean over R proposals and K - 1 old classes of |student - teacher|^2, background (class 0) left out.

    Args:
        student: deltas [R, K + new, 4]; gets the gradient, 0 for background and new classes.
        teacher: deltas [R, K, 4]; a constant.

    Returns 0-d, float32 (float64 if an input is); 0 for R = 0 or K = 1.
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    check_old_classes(student, teacher, 3, "[proposals, classes, 4]")
    if student.size(2) != 4:
        raise ValueError(f"student must hold 4 deltas a class, got shape {tuple(student.shape)}")
    kernels = backend.of(student, "class_box_l2")
    if kernels == "reference" or student.size(0) == 0 or teacher.size(1) < 2:
        return class_box_l2_reference(student, teacher)
    return row_pairs("class_box_l2", kernels, student, teacher)


def check_old_classes(student: object, teacher: object, ndim: int, meaning: str) -> None:
    """Alike but for classes (dim 1), of which the student may have more: TypeError, ValueError,
    RuntimeError.
    """
    _check.floating("student", student)
    _check.floating("teacher", teacher)
    _check_features.ndim("student", student, ndim, meaning)
    _check_features.ndim("teacher", teacher, ndim, meaning)
    alike = student.shape[:1] == teacher.shape[:1] and student.shape[2:] == teacher.shape[2:]
    if not alike or teacher.size(1) > student.size(1) or teacher.size(1) == 0:
        raise ValueError(
            f"student and teacher must be {meaning} with at least the teacher's classes, "
            f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    _check.same_device("student", student, "teacher", teacher)


register_row_pairs("class_box_l2")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.randn(5, 3, 4, generator=generator) for _ in range(2)], {}
