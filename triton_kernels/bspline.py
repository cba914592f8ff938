"""B-spline bases on a tile: any base of any feature at any point, each by its own triangle of the recursion.

B_{m,p}(x) = (x - g_m) / (g_{m+p} - g_m) B_{m,p-1} + (g_{m+p+1} - x) / (g_{m+p+1} - g_{m+1}) B_{m+1,p-1} with
0/0 = 0, and B_{m,0} = 1 on g_m <= x < g_{m+1}. A base needs the K + 2 knots from its own on, whatever the
grid; so a tile [points, columns] has a base in each column with no table of spans, K (K + 1) / 2 steps each.
Its derivatives replace the last steps: B'_{m,p} = p (B_{m,p-1} / (g_{m+p} - g_m) - B_{m+1,p-1} / ...).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ZERO, LINEAR, CLAMP = (
    tl.constexpr(code) for code in (0, 1, 2)
)  # extrapolations, as in csrc/common/bspline.h


@triton.jit
def over(distance):
    """1 / distance between knots, 0 where they are one."""
    return tl.where(distance > 0, 1 / tl.where(distance > 0, distance, 1), 0)


@triton.jit
def knot(knots, m, count):
    """Knot m of each column's feature; any number where there is none, since no base is wanted there."""
    return tl.load(knots + m, mask=(m >= 0) & (m < count), other=0)


@triton.jit
def pieces(x, at_end, knots, m, count, DEGREE: tl.constexpr, ORDER: tl.constexpr):
    """The derivatives of order ORDER of B_m at x; where at_end, from the left."""
    value = ()
    for r in tl.static_range(DEGREE + 1):
        begin, end = knot(knots, m + r, count), knot(knots, m + r + 1, count)
        inside = tl.where(at_end, (begin < x) & (x <= end), (begin <= x) & (x < end))
        value = value + (inside.to(x.dtype),)
    for p in tl.static_range(1, DEGREE + 1):
        raised = ()
        for r in tl.static_range(DEGREE + 1 - p):
            first, last = knot(knots, m + r, count), knot(knots, m + r + p + 1, count)
            rising = over(knot(knots, m + r + p, count) - first)
            falling = over(last - knot(knots, m + r + 1, count))
            if p <= DEGREE - ORDER:
                step = (x - first) * rising * value[r] + (last - x) * falling * value[r + 1]
            else:
                step = (rising * value[r] - falling * value[r + 1]) * p
            raised = raised + (step,)
        value = raised
    if ORDER > DEGREE:
        return value[0] * 0
    else:
        return value[0]


@triton.jit
def bases_at(x, knots, m, count, DEGREE: tl.constexpr, ORDER: tl.constexpr, EXTRAPOLATION: tl.constexpr):
    """The derivatives of order ORDER of B_m at x, continued beyond the interior, 0 where there is no base m.

    x, m and knots (each column's first knot) broadcast against each other; count: knots of a feature.
    """
    if EXTRAPOLATION == ZERO:
        low, high = tl.load(knots), tl.load(knots + count - 1)
        outside = (x < low) | (x >= high)
    else:
        low, high = tl.load(knots + DEGREE), tl.load(knots + count - 1 - DEGREE)
        outside = (x < low) | (x > high)
    at = tl.minimum(tl.maximum(x, low), high)
    value = pieces(at, at == high, knots, m, count, DEGREE, ORDER)
    if EXTRAPOLATION == ZERO:
        value = tl.where(outside, 0, value)
    elif EXTRAPOLATION == LINEAR:
        if ORDER == 0:
            value += tl.where(outside, x - at, 0) * pieces(at, at == high, knots, m, count, DEGREE, 1)
        elif ORDER > 1:
            value = tl.where(outside, 0, value)
    elif ORDER > 0:
        value = tl.where(outside, 0, value)
    return tl.where((m >= 0) & (m < count - DEGREE - 1), tl.where(x == x, value, x), 0)


@triton.jit
def span_of(x, knots, count, DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, KNOTS: tl.constexpr):
    """The first base that is not 0 at each x [S] of one feature; KNOTS: count, rounded up to a power of 2."""
    index = tl.arange(0, KNOTS)
    grid = tl.load(knots + index, mask=index < count, other=float("inf"))[None, :]
    low, high = (0, count - 1) if EXTRAPOLATION == ZERO else (DEGREE, count - 1 - DEGREE)
    last = tl.load(knots + high)
    at = tl.minimum(tl.maximum(x, tl.load(knots + low)), last)[:, None]
    below = tl.where(at == last, grid < at, grid <= at)
    return tl.sum(below.to(tl.int32), 1) - 1 - DEGREE


def knots_of(grid: Tensor, compute: torch.dtype) -> Tensor:
    """The grid [I, knots] in the compute type, in memory row by row."""
    return grid.to(compute).contiguous()
