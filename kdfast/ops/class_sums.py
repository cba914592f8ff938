"""Sums and counts of features by class: what class means are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features


def class_sums_reference(features: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The definition: sums[k] = sum of the rows whose target is k, counts[k] = their number."""
    compute = torch.float64 if features.dtype == torch.float64 else torch.float32
    sums = features.new_zeros((num_classes, features.size(1)), dtype=compute)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=features.device)
    target = target.long()
    sums = sums.index_add(0, target, features.detach().to(compute))
    return sums, counts.index_add(0, target, torch.ones_like(target))


def class_sums(features: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sums and counts of rows by class, in one pass.

    Args:
        features: [N, D], float64, float32, bfloat16 or float16. Gets no gradient.
        target: classes [N], integers in [0, num_classes).
        num_classes: K >= 1.

    Returns:
        sums [K, D], float32 (float64 for float64 features), and counts [K], int64.

    Raises TypeError, ValueError or RuntimeError for bad input; a class out of range raises ValueError on the
    CPU.
    """
    _check.floating("features", features)
    _check_features.ndim("features", features, 2, "[rows, features]")
    _check_features.integers("target", target)
    _check_features.shape("target", target, features.shape[:1], "one class per row")
    _check.same_device("features", features, "target", target)
    if not isinstance(num_classes, int) or isinstance(num_classes, bool):
        raise TypeError(f"num_classes must be an int, got {type(num_classes).__name__}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    _check_features.indices("target", target, num_classes)
    return class_sums_reference(features, target, num_classes)
