"""Sines as inputs, which anybody can make again in any language, and closeness to a printed number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def wave(shape: Sequence[int], scale: float = 1.0, phase: float = 0.0) -> Tensor:
    """scale * sin(k + phase), k = 1, 2, ... in row-major order, float64: the inputs of the test vectors."""
    k = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (scale * torch.sin(k + phase)).reshape(tuple(shape))


def close(value: Tensor | float, wanted: Tensor | float | Sequence[float], tolerance: float = 1e-9) -> None:
    """Number for number in float64, to `tolerance` of the number or of 1, whichever is more."""
    value, wanted = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (value, wanted))
    torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)
