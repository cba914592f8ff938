"""One weight for every cell of a feature pyramid, from the boxes of an image: what box_weighted_mse
multiplies errors by.

Location and scale maps as in FGD (Yang et al., CVPR 2022) and CLoCKDistill (arXiv 2502.10683): a cell inside
boxes weighs alpha / (cells of the smallest such box), a cell outside beta / (number of such cells of its
level and image).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._fake import register_fake

_SLACK = 1e-3  # of a cell: a corner this near a cell's border lies on it


def cells(low: Tensor, high: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """First and last cell, of `size`, that an extent [low, high] in [0, 1] covers; at least one, within the
    grid.
    """
    first = torch.floor(low * size + _SLACK)
    last = torch.maximum(torch.ceil(high * size - _SLACK) - 1, first)
    # NaN, which only a GPU lets through, counts as 0: the result is defined.
    return tuple(x.nan_to_num(0, size - 1, 0).clamp(0, size - 1) for x in (first, last))


def box_weights_reference(
    boxes: Tensor,
    counts: Sequence[int],
    shapes: Sequence[tuple[int, int]],
    alpha: float,
    beta: float,
    mask: Tensor | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The definition. boxes [sum(counts), 4] cxcywh, counts: boxes of each image, mask [B, N] bool -> [B,
    N].
    """
    tokens = sum(h * w for h, w in shapes)
    kept = (
        torch.ones((len(counts), tokens), dtype=torch.bool, device=boxes.device)
        if mask is None
        else mask != 0
    )
    rows, at = [], 0
    for image, count in enumerate(counts):
        own, levels, begin = boxes[at : at + count].detach().float(), [], 0
        for h, w in shapes:
            here = kept[image, begin : begin + h * w]
            levels.append(_level(own, h, w, here, alpha, beta, dtype))
            begin += h * w
        rows.append(torch.cat(levels) if levels else kept[image].to(dtype))
        at += count
    return torch.stack(rows) if rows else kept.to(dtype)


def _level(
    boxes: Tensor, h: int, w: int, kept: Tensor, alpha: float, beta: float, dtype: torch.dtype
) -> Tensor:
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    low, high = center - half, center + half
    first_x, last_x = cells(low[:, 0], high[:, 0], w)
    first_y, last_y = cells(low[:, 1], high[:, 1], h)
    x, y = torch.arange(w, device=boxes.device), torch.arange(h, device=boxes.device)
    inside_x = (x >= first_x[:, None]) & (x <= last_x[:, None])  # [n, w]
    inside_y = (y >= first_y[:, None]) & (y <= last_y[:, None])  # [n, h]
    inside = (inside_y[:, :, None] & inside_x[:, None, :]).flatten(1)  # [n, h w]
    area = ((last_x - first_x + 1) * (last_y - first_y + 1)).to(dtype)
    smallest = torch.where(inside, (1 / area)[:, None], 0)
    # A row of zeros, so that no box at all has a maximum too.
    smallest = torch.cat([smallest, smallest.new_zeros(1, h * w)]).amax(0)
    background = (smallest == 0) & kept
    share = beta / background.sum().clamp(min=1).to(dtype)
    return torch.where(kept, torch.where(background, share, alpha * smallest), 0)


def box_weights(
    boxes: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    *,
    alpha: float = 5e-5,
    beta: float = 1e-7,
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights [B, sum(h w)] of the cells of a pyramid's levels, from every image's boxes.

    Args:
        boxes: B tensors [n, 4] in normalised cxcywh; n = 0 is allowed. Corners are taken in float32; a box
            covers the cells floor(x1 W + 1e-3) ... ceil(x2 W - 1e-3) - 1, at least one, within the grid.
        shapes: the levels' (h, w).
        alpha, beta: factors of the cells inside and outside boxes, 0 or above.
        mask: [B, sum(h w)], bool or float; cells with 0 get weight 0 and are not counted.
        dtype: float32 or float64, of the result.

    Raises TypeError, ValueError or RuntimeError for bad input; boxes with NaN or negative sizes ValueError
    on the CPU.
    """
    joined = _joined(boxes, shapes, alpha, beta, mask, dtype)
    return _weights(backend.of(joined, "box_weights"), joined, boxes, shapes, alpha, beta, mask, dtype)


def weights_for_loss(
    boxes: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    *,
    alpha: float,
    beta: float,
    mask: Tensor | None = None,
    dtype: torch.dtype,
) -> Tensor:
    """`box_weights` for weighted_mse: by the definition where that runs in Triton, which has no kernel of the
    weights.
    """
    joined = _joined(boxes, shapes, alpha, beta, mask, dtype)
    kernels = backend.of(joined, "weighted_mse")
    if kernels != "triton":
        kernels = backend.of(joined, "box_weights")
    return _weights(kernels, joined, boxes, shapes, alpha, beta, mask, dtype)


def _joined(boxes, shapes, alpha, beta, mask, dtype) -> Tensor:
    """All boxes [n, 4] in float32, after the checks."""
    tokens = check_boxes(boxes, shapes)
    _check_features.not_negative("alpha", alpha)
    _check_features.not_negative("beta", beta)
    if mask is not None:
        _check.tensor("mask", mask)
        _check_features.shape("mask", mask, (len(boxes), tokens), "[batch, tokens]")
        if boxes:
            _check.same_device("mask", mask, "boxes[0]", boxes[0])
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return torch.cat([b.detach().float() for b in boxes]) if boxes else torch.zeros(0, 4)


def _weights(kernels, joined, boxes, shapes, alpha, beta, mask, dtype) -> Tensor:
    counts = [b.size(0) for b in boxes]
    if kernels != "native" or not boxes or not shapes:
        _check_features.box_contents("boxes", joined)
        return box_weights_reference(joined, counts, shapes, alpha, beta, mask, dtype)
    mask = None if mask is None else (mask != 0).contiguous()
    sizes = [n for shape in shapes for n in shape]
    wide = dtype == torch.float64
    return backend.ops(kernels).box_weights(joined, counts, sizes, float(alpha), float(beta), mask, wide)


def check_boxes(boxes: object, shapes: object) -> int:
    """Types and shapes of `boxes` and `shapes`: TypeError, ValueError. Returns the number of cells."""
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(f"boxes must be a list of tensors [n, 4], one an image, got {type(boxes).__name__}")
    for i, b in enumerate(boxes):
        _check.floating(f"boxes[{i}]", b)
        if b.dim() != 2 or b.size(1) != 4:
            raise ValueError(f"boxes[{i}] must be [n, 4] in cxcywh, got shape {tuple(b.shape)}")
        _check.same_device(f"boxes[{i}]", b, "boxes[0]", boxes[0])
    if not isinstance(shapes, (list, tuple)) or not all(isinstance(s, (list, tuple)) for s in shapes):
        raise TypeError(f"shapes must be a list of (height, width), got {shapes!r}")
    for s in shapes:
        if len(s) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in s):
            raise ValueError(f"shapes must hold (height, width) of 1 or more, got {tuple(s)}")
    return sum(h * w for h, w in shapes)


# ---- Fake kernel -----------------------------------------------------------------------------------------


def _fake(boxes, counts, shapes, alpha, beta, mask, wide):
    tokens = sum(h * w for h, w in zip(shapes[::2], shapes[1::2], strict=True))
    return boxes.new_empty((len(counts), tokens), dtype=torch.float64 if wide else torch.float32)


register_fake("box_weights", _fake)
