"""The dense basis: a program a block of points, a tile of points by bases."""

import triton
import triton.language as tl
from torch import Tensor

from .bspline import bases_at, knots_of
from .common import NUMBER, compute_type, rounded
from .launch import launch
from .library import define

MAX_DEGREE = 5
NUMBERS = 1024  # of a tile


@triton.jit
def bspline_basis_kernel(
    x, x_row, x_step, grid, out, pairs, features, count,
    DEGREE: tl.constexpr, ORDER: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr,
    PAIRS: tl.constexpr, BASES: tl.constexpr,
):  # fmt: skip
    """pairs: samples by features, row-major; BASES: of a feature, rounded up to a power of 2."""
    pair = (tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS))[:, None]
    m = tl.arange(0, BASES)[None, :]
    here = pair < pairs
    feature = tl.where(here, pair % features, 0)
    point = tl.load(x + pair // features * x_row + feature * x_step, mask=here, other=0).to(TYPE)
    value = bases_at(point, grid + feature * count, m, count, DEGREE, ORDER, EXTRAPOLATION)
    bases = count - DEGREE - 1
    tl.store(out + pair * bases + m, rounded(value, out.dtype.element_ty), mask=here & (m < bases))


def bspline_basis(x: Tensor, grid: Tensor, degree: int, derivative: int, extrapolation: int) -> Tensor:
    """x [N, I], grid [I, knots] -> [N, I, bases] in x's dtype: derivatives of that order."""
    samples, features = x.shape
    count = grid.size(1)
    bases = count - degree - 1
    out = x.new_empty((samples, features, bases))
    compute, padded = compute_type(x), triton.next_power_of_2(bases)
    pairs = max(1, NUMBERS // padded)
    launch(
        bspline_basis_kernel,
        triton.cdiv(samples * features, pairs),
        (x, *x.stride(), knots_of(grid, compute), out, samples * features, features, count),
        DEGREE=degree,
        ORDER=min(derivative, MAX_DEGREE + 1),
        EXTRAPOLATION=extrapolation,
        TYPE=NUMBER[compute],
        PAIRS=pairs,
        BASES=padded,
        num_warps=4,
    )
    return out


define(
    "bspline_basis(Tensor x, Tensor grid, int degree, int derivative, int extrapolation) -> Tensor",
    bspline_basis,
    lambda x, grid, degree, *_: x.new_empty((x.size(0), x.size(1), grid.size(1) - degree - 1)),
)
