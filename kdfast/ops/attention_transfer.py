"""Attention transfer (AT): the student imitates where a teacher's map has energy.

Zagoruyko & Komodakis, "Paying More Attention to Attention", ICLR 2017, arXiv 1612.03928.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops.normalized_mse import normalized_mse, normalized_mse_reference


def _maps(student: Tensor, teacher: Tensor, power: float) -> tuple[Tensor, Tensor]:
    compute = compute_type(student, teacher)
    student, teacher = (
        x.to(compute).abs().pow(power).mean(1).flatten(1) for x in (student, teacher.detach())
    )
    return student, teacher


def attention_transfer_reference(
    student: Tensor, teacher: Tensor, *, power: float = 2.0, eps: float = 1e-12
) -> Tensor:
    """The definition: the mean over positions of |Q_s/|Q_s| - Q_t/|Q_t||^2 with Q = mean_c |x|^power."""
    s, t = _maps(student, teacher, power)
    return normalized_mse_reference(s, t, eps=eps) / max(s.size(1), 1)


def attention_transfer(student: Tensor, teacher: Tensor, *, power: float = 2.0, eps: float = 1e-12) -> Tensor:
    """Mean squared difference of normalised attention maps Q = mean_c |x|^power (the official code's form of
    eq. 2).

    Args:
        student, teacher: maps [B, C, H, W] with one H, W; the channels may differ. The student gets the
            gradient.
        power: p of the paper, above 0.
        eps: smallest norm of a map that is divided by.

    Returns 0-d, float32 (float64 if an input is): the mean over batch and positions.
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check.floating("student", student)
    _check.floating("teacher", teacher)
    _check_features.ndim("student", student, 4, "[batch, channels, height, width]")
    _check_features.ndim("teacher", teacher, 4, "[batch, channels, height, width]")
    if student.size(0) != teacher.size(0) or student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            "student and teacher must agree in batch, height and width, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    _check.same_device("student", student, "teacher", teacher)
    power = _check.positive("power", power)
    eps = _check_features.not_negative("eps", eps)
    s, t = _maps(student, teacher, power)
    return normalized_mse(s, t, eps=eps) / max(s.size(1), 1)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.randn(2, 6, 8, 8, generator=generator) for _ in range(2)], {}
