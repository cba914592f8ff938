"""The passes over a row that the divergences' kernels are made of; see divergence_kernels.py.

Names: `row` is the rows' state, the eight numbers [rows] of row_statistics.finish; `numbers` are 1/T and
param, of the compute type; `grad` is the gradient as tiles.store_tile takes it, None if none is wanted.
"""

import triton
import triton.language as tl

from . import row_statistics as rs
from .common import phi
from .tiles import load_tile, store_tile, tile_width


@triton.jit
def terms(row, s, t, numbers, FORMULA: tl.constexpr, INFINITE: tl.constexpr, REGIME: tl.constexpr):
    """A tile's values, scores, q, d = q - p and v = log q/p.

    REGIME: FAR or NEARBY if every row is known to be so, which saves a series or an exponential; else MIXED.
    """
    gap = (t - s) - row[4][:, None, None]
    if REGIME != rs.FAR:
        gap += rs.dropped(s, t)
    v = row[5][:, None, None] - gap * numbers[0]
    v = tl.where(v < 1e30, v, 1e30)  # also where the class is impossible on both sides: there p = q = 0
    if INFINITE != "student":  # there -inf marks the row, whose sum is then not used
        v = tl.maximum(v, -1e30)
    near = row[6][:, None, None] == rs.NEARBY
    p = rs.exponential(t, row[2][:, None, None], numbers[0]) * row[3][:, None, None]
    if REGIME == rs.NEARBY:
        d = tl.where(v < 1, p * (v + phi(v)), 0.0)
        q = p + d
    else:
        q = rs.exponential(s, row[0][:, None, None], numbers[0]) * row[1][:, None, None]
        d = q - p
        if REGIME == rs.MIXED:
            d = tl.where(near & (v < 1), p * (v + phi(v)), d)
    value, score = FORMULA(p, q, d, v, near, numbers[1])
    return value, score, q, d, v


@triton.jit
def tile_gradient(tile_terms, row_sum, factor, SCORE: tl.constexpr):
    """A tile's gradient, times the rows' factor; a row whose sum of q score is +inf gets 0."""
    _, score, q, d, _ = tile_terms
    if SCORE == "none":
        return d * factor[:, None, None]
    else:
        infinite = row_sum == float("inf")
        mean = tl.where(infinite, 0.0, row_sum)[:, None, None]
        return q * (score - mean) * tl.where(infinite, 0.0, factor)[:, None, None]


@triton.jit
def whole_rows(
    view, read, shift, factor, grad, numbers, FORMULA: tl.constexpr, SCORE: tl.constexpr,
    INFINITE: tl.constexpr, GAP: tl.constexpr,
):  # fmt: skip
    """Rows that fit in one tile, every pass over the same registers: state, values and lowest log q/p."""
    s, t = load_tile(view, read, 0, shift.dtype, False)
    row = rs.finish(rs.of_tile(s, t, shift, numbers[0], GAP), shift, numbers[0], GAP)
    counted = (row[6] != rs.UNCOUNTED)[:, None, None]
    s = tl.where(counted, s, -float("inf"))  # a NaN opposite a row of impossible classes must not count
    t = tl.where(counted, t, -float("inf"))
    new = terms(row, s, t, numbers, FORMULA, INFINITE, rs.MIXED)
    if SCORE == "sum":
        row = rs.with_row_sum(row, tl.sum(tl.sum(new[2] * new[1], 2), 1))
    if grad is not None:
        store_tile(view, grad, 0, tile_gradient(new, row[7], factor, SCORE), False)
    return row, tl.sum(tl.sum(new[0], 2), 1), tl.min(tl.min(new[4], 2), 1)


@triton.jit
def walk_statistics(view, read, shift, inverse_temperature, GAP: tl.constexpr, STAGES: tl.constexpr):
    """Pass 1 over rows of many tiles: the last one, which may overhang, then the full ones in order.

    Where a single row shows in the first tile taken that it is far, the others leave D out.
    """
    TYPE: tl.constexpr = shift.dtype
    ROWS: tl.constexpr = shift.shape[0]
    last = (view[0] - 1) // tile_width(view)
    s, t = load_tile(view, read, last, TYPE, False)
    part = rs.no_statistics(ROWS, view[2].shape[0], TYPE)
    part = rs.fold(part, s, t, shift[:, None, None], inverse_temperature, True, GAP)
    turn = last
    if ROWS == 1:
        last = tl.where(tl.max(read.to(tl.int32), 0) > 0, last, 0)  # full tiles of a single row have no mask
        turn = tl.where(rs.widest(part) * inverse_temperature > rs.NEAR, 0, last)
    for i in tl.range(0, turn, num_stages=STAGES):
        s, t = load_tile(view, read, i, TYPE, True)
        part = rs.fold(part, s, t, shift[:, None, None], inverse_temperature, True, GAP)
    if ROWS == 1:
        for i in tl.range(turn, last, num_stages=STAGES):
            s, t = load_tile(view, read, i, TYPE, True)
            part = rs.fold(part, s, t, shift[:, None, None], inverse_temperature, False, GAP)
    return rs.join_lanes(part, inverse_temperature)


@triton.jit
def visit(
    view, read, tile, row, factor, grad, numbers, FORMULA: tl.constexpr, SCORE: tl.constexpr,
    INFINITE: tl.constexpr, STORE: tl.constexpr, REGIME: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """One tile of pass 2 or 3: values, q score and lowest log q/p, [rows, lanes]; the gradient if STORE."""
    s, t = load_tile(view, read, tile, factor.dtype, FULL)
    new = terms(row, s, t, numbers, FORMULA, INFINITE, REGIME)
    if STORE:
        store_tile(view, grad, tile, tile_gradient(new, row[7], factor, SCORE), FULL)
    return tl.sum(new[0], 2), tl.sum(new[2] * new[1], 2), tl.min(new[4], 2)


@triton.jit
def walk_terms(
    view, read, row, factor, grad, numbers, FORMULA: tl.constexpr, SCORE: tl.constexpr,
    INFINITE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Passes 2 and 3 over rows of many tiles: the rows' state, values and lowest log q/p.

    Pass 2 goes from the last tile to the first, pass 3 back. A single row's regime has a loop of its own.
    """
    ROWS: tl.constexpr = factor.shape[0]
    STORE: tl.constexpr = (grad is not None) and SCORE != "sum"
    SPLIT: tl.constexpr = ROWS == 1 and SCORE != "sum"
    last = (view[0] - 1) // tile_width(view)
    value, row_sum, lowest = visit(
        view, read, last, row, factor, grad, numbers, FORMULA, SCORE, INFINITE, STORE, rs.MIXED, False
    )
    regime = tl.max(row[6], 0)  # of a single row
    for branch in tl.static_range(2 if SPLIT else 1):
        count = last
        if SPLIT:
            count = tl.where(regime == branch, last, 0)
        elif ROWS == 1:
            count = tl.where(regime == rs.UNCOUNTED, 0, last)
        for i in tl.range(0, count, num_stages=STAGES):
            new = visit(
                view, read, last - 1 - i, row, factor, grad, numbers, FORMULA, SCORE, INFINITE, STORE,
                branch if SPLIT else rs.MIXED, True,
            )  # fmt: skip
            value += new[0]
            row_sum += new[1]
            lowest = tl.minimum(lowest, new[2])
    if SPLIT and STORE:
        for i in tl.range(0, tl.where(regime == rs.UNCOUNTED, last, 0)):
            store_tile(view, grad, i, tl.zeros((1, view[2].shape[0], view[2].shape[1]), factor.dtype), True)
    if SCORE == "sum":
        row = rs.with_row_sum(row, tl.sum(row_sum, 1))
        if grad is not None:
            for i in tl.range(0, last + 1, num_stages=STAGES):
                visit(
                    view, read, i, row, factor, grad, numbers, FORMULA, SCORE, INFINITE, True, rs.MIXED, False
                )
    return row, tl.sum(value, 1), tl.min(lowest, 1)
