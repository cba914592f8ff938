"""Knots of KAN layers: made, moved to the samples, and coefficients fitted to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._bspline import EXTRAPOLATIONS
from kdfast.ops.bspline_basis import basis_rows


def uniform_grid(grid_range: Sequence[float], intervals: int, degree: int, dtype: torch.dtype) -> Tensor:
    """G equal intervals of grid_range and `degree` more on each side: [G + 2k + 1]. TypeError, ValueError."""
    ends = tuple(grid_range) if isinstance(grid_range, (tuple, list)) else ()
    if len(ends) != 2:
        raise TypeError(f"grid_range must be a pair of numbers, got {grid_range!r}")
    low, high = (_check.number("grid_range", end) for end in ends)
    step = (high - low) / intervals
    if not 0 < step < float("inf"):
        raise ValueError(f"grid_range must be (low, high) with low < high, both finite, got {grid_range!r}")
    # As efficient-kan makes it, so that the rounded knots agree.
    return torch.arange(-degree, intervals + degree + 1).to(dtype) * step + low


def adapted_grid(points: Tensor, intervals: int, degree: int, margin: float, eps: float) -> Tensor:
    """efficient-kan's rule: order statistics mixed with a uniform grid. points [B, I] -> [I, G + 2k + 1]."""
    ordered = points.sort(0).values
    picked = torch.linspace(0, points.size(0) - 1, intervals + 1, dtype=torch.float64).to(torch.int64)
    adaptive = ordered[picked.to(points.device)]
    step = (ordered[-1] - ordered[0] + 2 * margin) / intervals
    count = torch.arange(intervals + 1, device=points.device, dtype=points.dtype).unsqueeze(1)
    inner = eps * (ordered[0] - margin + step * count) + (1 - eps) * adaptive
    beyond = torch.arange(1, degree + 1, device=points.device, dtype=points.dtype).unsqueeze(1) * step
    return torch.cat([inner[:1] - beyond.flip(0), inner, inner[-1:] + beyond]).T.contiguous()


def fit(points: Tensor, grid: Tensor, degree: int, extrapolation: str) -> Tensor:
    """The matrices [I, bases, B] from values at `points` [B, I] to the coefficients nearest to them in least
    squares.

    Of least norm where the samples do not determine them: by QR, then the pseudo-inverse of the small factor,
    so that a basis without samples does no harm on any device. float64.
    """
    q, r = torch.linalg.qr(_basis(points, grid, degree, extrapolation))
    return torch.linalg.pinv(r, rtol=1e-10) @ q.mT


def moved(
    weight: Tensor, points: Tensor, old: Tensor, new: Tensor, degree: int, extrapolation: str
) -> Tensor:
    """Coefficients [O, I, bases] on the knots `new` of the splines that `weight` are on the knots `old`.

    One small matrix for each feature, whatever the number of outputs: nothing of the size B x I x O is made.
    """
    change = fit(points, new, degree, extrapolation) @ _basis(points, old, degree, extrapolation)
    return torch.einsum("imn,oin->oim", change, weight.double())


def _basis(points: Tensor, grid: Tensor, degree: int, extrapolation: str) -> Tensor:
    """[I, B, bases] in float64."""
    code = EXTRAPOLATIONS[extrapolation]
    return basis_rows(points.double(), grid.double(), degree, 0, code, backend.of(points)).transpose(0, 1)
