"""Sums and counts of features by class: what class means are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake


def class_sums_reference(
    features: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition: sums[k] = sum of the rows whose target is k, in float64, counts[k] = their number."""
    target = target.long()
    if ignore_index is not None:
        counted = target != ignore_index
        features, target = features[counted], target[counted]
    sums = features.new_zeros((num_classes, features.size(1)), dtype=torch.float64)
    counts = torch.zeros(num_classes, dtype=torch.int64, device=features.device)
    sums = sums.index_add(0, target, features.detach().double())
    return sums.to(_dtype_of_sums(features, dtype)), counts.index_add(0, target, torch.ones_like(target))


def _dtype_of_sums(features: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    if dtype is None:
        return compute_type(features)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype


def class_sums(
    features: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    ignore_index: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Sums and counts of rows by class, in one pass. Rows are added in their order, in float64: the same bits
    every time.

    Args:
        features: [N, D], float64, float32, bfloat16 or float16, any strides. Gets no gradient.
        target: classes [N], integers in [0, num_classes) or `ignore_index`.
        num_classes: K >= 1.
        ignore_index: the target of rows that are passed over; None: there is none.
        dtype: of the sums, float32 or float64; float32 (float64 for float64 features) if None.

    Returns:
        sums [K, D] and counts [K], int64.

    Raises TypeError, ValueError or RuntimeError for bad input; a class out of range raises ValueError on the
    CPU.
    """
    _check.floating("features", features)
    _check_features.ndim("features", features, 2, "[rows, features]")
    _check_features.integers("target", target)
    _check_features.shape("target", target, features.shape[:1], "one class per row")
    _check.same_device("features", features, "target", target)
    _check.whole_number("num_classes", num_classes, 1)
    if ignore_index is not None:
        _check.whole_number("ignore_index", ignore_index, -(2**63))
    dtype = _dtype_of_sums(features, dtype)
    kernels = backend.of(features, "class_sums")
    if kernels == "reference":
        _check_features.indices("target", target, num_classes, ignore_index)
        return class_sums_reference(features, target, num_classes, ignore_index=ignore_index, dtype=dtype)
    target = target.long().contiguous()
    op = backend.ops(kernels).class_sums
    return op(features.detach(), target, num_classes, ignore_index, dtype == torch.float64)


# ---- Fake kernel -----------------------------------------------------------------------------------------


def _fake(features, target, num_classes, ignore_index, wide):
    dtype = torch.float64 if wide else torch.float32
    sums = features.new_empty((num_classes, features.size(1)), dtype=dtype)
    return sums, target.new_empty(num_classes)


register_fake("class_sums", _fake)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    target = torch.randint(0, 4, (5,), generator=generator)
    return [torch.randn(5, 7, generator=generator), target, 4], {}
