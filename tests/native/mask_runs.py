"""Runs of the CUDA kernels around masks and classes on the emulated device, from torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from native.arrays import filled
from native.feature_runs import nothing, raw
from torch import Tensor

RUN = 256


def class_sums(native: Any, features: Tensor, target: Tensor, classes: int, *, ignored=None, wide=False):
    """Sums and counts."""
    sums = filled((classes, features.size(1)), "float64" if wide else "float32")
    counts = np.full(classes, -7, np.int64)
    native.class_sums(raw(features), raw(target), ignored=ignored, sums=sums, counts=counts)
    return torch.from_numpy(sums), torch.from_numpy(counts)


def box_weights(
    native: Any,
    boxes: Tensor,
    counts: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    alpha: float,
    beta: float,
    mask: Tensor | None = None,
    kind: str = "float32",
) -> Tensor:
    """Weights [images, cells]."""
    begin = [0, *np.cumsum(counts).tolist()]
    weight = filled((len(counts), sum(h * w for h, w in shapes)), kind)
    native.box_weights(raw(boxes), begin, list(shapes), alpha=alpha, beta=beta, mask=raw(mask), weight=weight)
    return torch.from_numpy(weight)


def dice_diversity(native: Any, masks: Tensor, pairwise: bool, upstream: Tensor | None = None):
    """masks [B, P, M]: the values of the samples, divided by B, and their gradient."""
    batch, positions, count = masks.shape
    kind = "float64" if masks.dtype == torch.float64 else "float32"
    parts, numbers = -(-positions // RUN), count * count if pairwise else 2
    value, grad = filled((batch,), kind), nothing(masks)
    native.dice_diversity(
        raw(masks), pairwise=pairwise, scale=1 / batch, upstream=raw(upstream), value=value, grad=raw(grad),
        sums=filled((batch, parts, numbers), "float64"), weights=filled((batch, numbers), kind),
        largest=filled((batch, parts), kind),
    )  # fmt: skip
    return torch.from_numpy(value), grad


def random_mask(native: Any, x: Tensor, state: Tensor, ratio: float, by_inner: bool) -> Tensor:
    """x [batch, outer, inner]; the mask is over the inner numbers or over the outer ones."""
    out = nothing(x)
    native.random_mask(raw(x), raw(state), threshold=int(ratio * 2**32), by_inner=by_inner, out=raw(out))
    return out


def run_all(native: Any) -> None:
    """Every kernel once."""
    x = torch.rand(2, 6, 5)
    class_sums(native, x[0], torch.arange(6) % 3, 3)
    box_weights(native, torch.rand(3, 4), [1, 2], [(3, 4)], 1.0, 1.0)
    dice_diversity(native, x, False), dice_diversity(native, x, True)
    random_mask(native, x, torch.tensor([1, 2]), 0.5, True)
