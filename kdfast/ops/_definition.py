"""What the definitions share: the type they compute in, rows of classes, and which of them count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check

INF = float("inf")


def compute_type(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors is float64, else float32."""
    return torch.float64 if torch.float64 in [x.dtype for x in tensors] else torch.float32


def classes_last(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """x with its class dimensions joined into one, the last: [rows..., classes]."""
    dims = _check.dims(dim, x.dim())
    return x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))


def possible(logits: Tensor) -> Tensor:
    """Rows that have a class that can occur: not every logit is -inf. [rows..., C] -> bool [rows...]"""
    return (logits != -INF).any(-1)


def row_weight(mask: Tensor | None, logits: Tensor) -> Tensor:
    """The mask as numbers of the logits' type, or ones: [rows...]."""
    if mask is None:
        return torch.ones(logits.shape[:-1], dtype=logits.dtype, device=logits.device)
    return mask.detach().to(logits.dtype)


def keep(counted: Tensor, logits: Tensor) -> Tensor:
    """logits [rows..., C] with zeros in the rows that do not count: by selection, so that what they hold is
    harmless.
    """
    return torch.where(counted.unsqueeze(-1), logits, 0)


def dot_possible(p: Tensor, x: Tensor) -> Tensor:
    """sum over classes of p x, where a class with p = 0 adds nothing even if x is infinite."""
    return (p * torch.where(p != 0, x, 0)).sum(-1)


def log_sum_exp(x: Tensor) -> Tensor:
    """logsumexp over the last dimension; -inf, without a gradient, where every number is -inf."""
    some = possible(x)
    return torch.where(some, keep(some, x).logsumexp(-1), -INF)


def reduce_rows(
    value: Tensor, weight: Tensor, reduction: str, batch: int, divisor: Tensor | None = None
) -> Tensor:
    """Values [rows...] that already carry their weight to what `reduction` asks for.

    mean divides by the sum of `divisor` (`weight` if None), batchmean by `batch`; 0 where that is 0.
    """
    if reduction == "none":
        return value
    total = value.sum()
    if reduction == "sum":
        return total
    if reduction == "batchmean":
        return total / batch if batch else total
    count = (weight if divisor is None else divisor).sum()
    return torch.where(count == 0, 0, total / torch.where(count == 0, 1, count))
