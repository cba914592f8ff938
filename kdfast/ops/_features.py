"""What the losses on features share: sums that stay attached to the graph, and the autograd function of a
scalar loss.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attached_zero(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A 0-d zero that depends on x, whatever x holds: the sum of none of its elements."""
    return x.reshape(-1)[:0].sum(dtype=dtype)


def safe_norm(x: Tensor, dim: int = -1) -> Tensor:
    """The L2 norm along `dim`, with gradient 0 (not NaN) at 0."""
    square = (x * x).sum(dim)
    zero = square == 0
    return torch.where(zero, 0, torch.where(zero, 1, square).sqrt())


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 with gradient 0 where b is 0."""
    zero = b == 0
    return torch.where(zero, 0, a / torch.where(zero, 1, b))
