"""Cosine distance between features: 1 - cos, as half the squared distance of normalised vectors (accurate
near 0).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdfast.ops.normalized_mse import normalized_mse, normalized_mse_reference


def cosine_distance_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    dim: int | Sequence[int] = -1,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """The definition: |s/|s| - t/|t||^2 / 2 = 1 - cos(s, t)."""
    return normalized_mse_reference(student, teacher, dim=dim, eps=eps, reduction=reduction) / 2


def cosine_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    dim: int | Sequence[int] = -1,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos(student, teacher) along `dim` (as in DistilBERT, arXiv 1910.01108, and TinyViT-style feature
    distillation).

    Args, returns and errors are those of `normalized_mse` without centring. A side with a norm at or below
    eps counts as the zero vector: such a row's value is 1/2 (0 if both are), its gradient 0 if the student is
    that side.
    """
    return normalized_mse(student, teacher, dim=dim, eps=eps, reduction=reduction) / 2
