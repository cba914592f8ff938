"""What the B-spline ops share in Python: checks of their arguments, and the definition of the basis.

The definition is the Cox-de Boor recursion with 0/0 = 0 and half-open spans. Its derivatives are those of its
pieces: B'_{m,k} = k [B_{m,k-1} / (g_{m+k} - g_m) - B_{m+1,k-1} / (g_{m+k+1} - g_{m+1})].
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check

MAX_DEGREE = 5
EXTRAPOLATIONS = {"zero": 0, "linear": 1, "clamp": 2}


# ---- Checks


def check_degree(degree: object) -> int:
    """An int from 0 to 5: TypeError, ValueError."""
    if isinstance(degree, bool) or not isinstance(degree, int):
        raise TypeError(f"degree must be an int, got {type(degree).__name__}")
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be from 0 to {MAX_DEGREE}, got {degree}")
    return degree


def check_extrapolation(name: object) -> int:
    """The code of an extrapolation: ValueError."""
    code = EXTRAPOLATIONS.get(name) if isinstance(name, str) else None
    if code is None:
        raise ValueError(f"extrapolation must be one of {', '.join(EXTRAPOLATIONS)}, got {name!r}")
    return code


def check_points(x: object, grid: object, degree: int) -> Tensor:
    """x [..., I] and grid [I, knots] or [knots] that fit: TypeError, ValueError, RuntimeError. Returns grid
    [I, knots]."""
    _check.floating("x", x)
    _check.floating("grid", grid)
    if x.dim() == 0 or x.size(-1) == 0:
        raise ValueError(f"x must have a last dimension of at least one feature, got shape {tuple(x.shape)}")
    _check.same_device("x", x, "grid", grid)
    if grid.dim() not in (1, 2) or (grid.dim() == 2 and grid.size(0) != x.size(-1)):
        raise ValueError(
            f"grid must be [knots] or [{x.size(-1)}, knots] for {x.size(-1)} features, "
            f"got shape {tuple(grid.shape)}"
        )
    if grid.size(-1) < 2 * degree + 2:
        raise ValueError(
            f"grid is too short: degree {degree} needs at least {2 * degree + 2} knots, got {grid.size(-1)}"
        )
    return grid.detach().expand(x.size(-1), grid.size(-1))


def check_knots(grid: Tensor, degree: int) -> None:
    """By contents, as the CPU op does it: finite, ascending, not constant. ValueError. grid: [I, knots]."""
    needed = "needed are finite knots in ascending order, repeats allowed, that span an interval"
    if not grid.isfinite().all():
        raise ValueError(f"grid has a NaN or infinite knot; {needed}")
    if (grid.diff(dim=-1) < 0).any():
        raise ValueError(f"grid is not sorted; {needed}")
    if (grid[:, degree] >= grid[:, grid.size(-1) - 1 - degree]).any():
        last = grid.size(-1) - 1 - degree
        raise ValueError(f"grid is constant between knots {degree} and {last}; {needed}")


# ---- The definition


def basis_definition(x: Tensor, grid: Tensor, degree: int, derivative: int, extrapolation: int) -> Tensor:
    """x [N, I], grid [I, knots] -> [N, I, knots - degree - 1], differentiable with respect to x."""
    if extrapolation == EXTRAPOLATIONS["zero"]:
        return _pieces(x, grid, degree, derivative, _span(x, grid))
    low, high = grid[:, degree], grid[:, -1 - degree]
    inside = torch.minimum(torch.maximum(x.detach(), low), high)
    outside = (x < low) | (x > high)
    at = torch.where(outside, inside, x)
    span = _interior_span(inside, grid, degree)
    value = _pieces(at, grid, degree, derivative, span)
    outside = outside.unsqueeze(-1)
    if extrapolation == EXTRAPOLATIONS["clamp"]:
        return torch.where(outside, 0, value) if derivative else value
    if derivative == 0:
        return value + torch.where(outside, (x - at).unsqueeze(-1), 0) * _pieces(at, grid, degree, 1, span)
    return torch.where(outside, 0, value) if derivative > 1 else value


def _span(x: Tensor, grid: Tensor) -> Tensor:
    """The number of the half-open span of each x; -1 or knots - 1 outside."""
    return (x.detach().unsqueeze(-1) >= grid).sum(-1) - 1


def _interior_span(inside: Tensor, grid: Tensor, degree: int) -> Tensor:
    """The same within [g_k, g_{n-1-k}], where the right end belongs to the last non-empty span."""
    last = (grid < grid[:, -1 - degree, None]).sum(-1) - 1
    return torch.minimum(_span(inside, grid), last)


def _pieces(x: Tensor, grid: Tensor, degree: int, derivative: int, span: Tensor) -> Tensor:
    """The polynomial pieces of `span` at x; all 0 where there is no such span."""
    count = grid.size(-1)
    nowhere = (span < 0) | (span > count - 2)
    x = torch.where(nowhere & ~x.isnan(), grid[:, 0], x).unsqueeze(-1)
    value = (span.unsqueeze(-1) == torch.arange(count - 1, device=x.device)).to(x.dtype)
    value = torch.where(x.isnan(), x, value)
    for p in range(1, degree + 1):
        distance = grid[:, p:] - grid[:, :-p]
        inverse = torch.where(distance > 0, 1 / torch.where(distance > 0, distance, 1), 0)
        if p <= degree - derivative:
            rising = (x - grid[:, : -p - 1]) * inverse[:, :-1] * value[..., :-1]
            value = rising + (grid[:, p + 1 :] - x) * inverse[:, 1:] * value[..., 1:]
        else:
            value = p * (inverse[:, :-1] * value[..., :-1] - inverse[:, 1:] * value[..., 1:])
    return value if derivative <= degree else value * 0
