"""Squared distance of normalised features, plain or with the spatial mean removed: the two views of ScaleKD.

Fan et al., "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", NeurIPS 2024, arXiv 2411.06786. Its
"alternative view" (DCT, zero the constant coefficient, inverse DCT) is exactly the subtraction of the spatial mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._divergence import compute_type, reduce_reference
from kdfast.ops._features import safe_norm


def normalized_mse_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    dim: int | Sequence[int] = -1,
    center: bool = False,
    eps: float = 1e-6,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: |s/max(|s|, eps) - t/max(|t|, eps)|^2 along `dim`; no gradient where |s| <= eps."""
    compute = compute_type(student, teacher)
    dims = _check.dims(dim, student.dim())
    others = [d for d in range(1, student.dim()) if d not in dims]

    def view(x: Tensor) -> Tensor:
        x = x.to(compute)
        if center:
            x = x - x.mean(others, keepdim=True)
            x = x - x.mean(others, keepdim=True)  # what rounding the mean left
        x = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
        norm = safe_norm(x).unsqueeze(-1)
        flat = (x / eps).detach() if eps > 0 else torch.zeros_like(x)
        return torch.where(
            norm > eps, x / torch.where(norm > eps, norm, 1), torch.where(norm.isnan(), x, flat)
        )

    value = (view(student) - view(teacher.detach())).square().sum(-1)
    return reduce_reference(value, torch.ones_like(value), reduction, student.size(0))


def normalized_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    dim: int | Sequence[int] = -1,
    center: bool = False,
    eps: float = 1e-6,
    reduction: str = "batchmean",
) -> Tensor:
    """|s/max(|s|, eps) - t/max(|t|, eps)|^2 a row, the norms along `dim`: 2 - 2 cos where neither is tiny.

    Args:
        student, teacher: features of one shape, any dtypes and strides: maps [B, C, H, W] with dim=1, tokens [B, L, C]
            with dim=-1. The student gets the gradient.
        dim: the dimension that is normalised, or a tuple of them that are joined.
        center: subtract the mean over every dimension but 0 and `dim` first (an accurate two-pass mean).
        eps: smallest norm that is divided by. A row with a norm at or below it gets no gradient.
        reduction: "batchmean" (sum / student.size(0)), "none" (the student's shape without `dim`), "sum" or "mean".

    Returns:
        float32 (float64 if an input is float64), 0-d or one value per row.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    if student.dim() == 0:
        raise ValueError("student must have a dimension to normalise along, got a 0-d tensor")
    dims = _check.dims(dim, student.dim())
    if center and all(d in dims for d in range(1, student.dim())):
        raise ValueError(
            f"center needs a dimension beside 0 and dim={dim} to take the mean over, got shape {tuple(student.shape)}"
        )
    eps = _check_features.not_negative("eps", eps)
    _check.reduction(reduction)
    return normalized_mse_reference(student, teacher, dim=dims, center=center, eps=eps, reduction=reduction)
