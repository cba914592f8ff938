"""The kernels of the divergence family: forward (with or without the gradient), backward, and the last sum.

Bytes a class, b the item size: forward reads 2b and, with the gradient, writes b: the least possible, as long as a row
stays in registers (up to rows.ONE_TILE classes) or in L2 between passes. Longer rows are walked again, in the opposite
order each time, so that a pass begins with what the last one left in the cache: twice in all for the KLs, three times
where the gradient needs a sum that is known only after the second pass. Backward reads 2b and writes b.
Nothing is added with atomics: a program writes its sums, and `total_kernel` adds them in a fixed order.
"""

import triton
import triton.language as tl

from . import row_statistics as rs
from .common import number, phi
from .tiles import at_rows, first_gap, load_tile, logits, row_weights, store_tile


@triton.jit
def terms(row, s, t, inverse_temperature, param, FORMULA: tl.constexpr, INFINITE: tl.constexpr, REGIME: tl.constexpr):
    """A tile's values, scores, q, d = q - p and v = log q/p; `row` is the rows' state, eight numbers [rows].

    REGIME: FAR or NEARBY if every row is known to be so (which saves an exponential or a series), else MIXED.
    """
    gap = (t - s) - row[4][:, None, None]
    v = row[5][:, None, None] - gap * inverse_temperature
    v = tl.where(v < 1e30, v, 1e30)  # also where the class is impossible on both sides: there p = q = 0
    if INFINITE != "student":  # there -inf marks the row, whose sum is then not used
        v = tl.maximum(v, -1e30)
    p = rs.exponential(t, row[2][:, None, None], inverse_temperature) * row[3][:, None, None]
    if REGIME == rs.NEARBY:
        d = tl.where(v < 1, p * (v + phi(v)), 0.0)
        q = p + d
    else:
        q = rs.exponential(s, row[0][:, None, None], inverse_temperature) * row[1][:, None, None]
        d = q - p
        if REGIME == rs.MIXED:
            near = row[6][:, None, None] == rs.NEARBY
            d = tl.where(near & (v < 1), p * (v + phi(v)), d)
    value, score = FORMULA(p, q, d, v, param)
    return value, score, q, d, v


@triton.jit
def tile_gradient(tile_terms, row_sum, factor, SCORE: tl.constexpr):
    """A tile's gradient, times the rows' factor; a row whose sum of scores is +inf gets 0."""
    _, score, q, d, _ = tile_terms
    if SCORE == "none":
        return d * factor[:, None, None]
    else:
        infinite = row_sum == float("inf")
        mean = tl.where(infinite, 0.0, row_sum)[:, None, None]
        return q * (score - mean) * tl.where(infinite, 0.0, factor)[:, None, None]


@triton.jit
def walk_statistics(
    view, read, shift, inverse_temperature, GAP: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr, STEPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Pass 1 over rows of many tiles: the last one, which may overhang, then the full ones from the first on.

    Where a single row shows in its first tile that it is far, the others leave D out.
    """
    shift = shift[:, None, None]
    last = (view[0] - 1) // (LANES * STEPS)
    s, t = load_tile(view, read, last, False, TYPE, LANES, STEPS)
    part = rs.fold(rs.no_statistics(ROWS, LANES, TYPE), s, t, shift, inverse_temperature, True, GAP)
    turn = last
    if ROWS == 1:
        last = tl.where(tl.max(read.to(tl.int32), 0) > 0, last, 0)  # full tiles of a single row are read without a mask
        turn = tl.where(rs.widest(part) * inverse_temperature > rs.NEAR, 0, last)
    for i in tl.range(0, turn, num_stages=STAGES):
        s, t = load_tile(view, read, i, True, TYPE, LANES, STEPS)
        part = rs.fold(part, s, t, shift, inverse_temperature, True, GAP)
    if ROWS == 1:
        for i in tl.range(turn, last, num_stages=STAGES):
            s, t = load_tile(view, read, i, True, TYPE, LANES, STEPS)
            part = rs.fold(part, s, t, shift, inverse_temperature, False, GAP)
    return rs.join_lanes(part, inverse_temperature)


@triton.jit
def visit(
    view, read, tile, row, row_sum, factor, grad, inverse_temperature, param, FORMULA: tl.constexpr,
    SCORE: tl.constexpr, INFINITE: tl.constexpr, STORE: tl.constexpr, REGIME: tl.constexpr, FULL: tl.constexpr,
    TYPE: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """One tile of pass 2 or 3: its values, q score and lowest log q/p, [rows, lanes]; stores the gradient if STORE."""
    s, t = load_tile(view, read, tile, FULL, TYPE, LANES, STEPS)
    new = terms(row, s, t, inverse_temperature, param, FORMULA, INFINITE, REGIME)
    if STORE:
        store_tile(view, grad, tile, tile_gradient(new, row_sum, factor, SCORE), FULL, LANES, STEPS)
    return tl.sum(new[0], 2), tl.sum(new[2] * new[1], 2), tl.min(new[4], 2)


@triton.jit
def walk_terms(
    view, read, row, factor, grad, inverse_temperature, param, FORMULA: tl.constexpr, SCORE: tl.constexpr,
    INFINITE: tl.constexpr, TYPE: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Passes 2 and 3 over rows of many tiles: values, sums of q score and lowest log q/p, [rows]; the gradient.

    Pass 2 goes from the last tile to the first, pass 3 back. A single row has one regime, and a loop of its own for it.
    """
    STORE: tl.constexpr = (grad is not None) and SCORE != "sum"
    SPLIT: tl.constexpr = ROWS == 1 and SCORE != "sum"
    last = (view[0] - 1) // (LANES * STEPS)
    value, row_sum, lowest = visit(
        view, read, last, row, row[7], factor, grad, inverse_temperature, param, FORMULA, SCORE, INFINITE, STORE,
        rs.MIXED, False, TYPE, LANES, STEPS,
    )  # fmt: skip
    for regime in tl.static_range(2 if SPLIT else 1):
        count = last
        if SPLIT:
            count = tl.where(tl.max(row[6], 0) == regime, last, 0)
        elif ROWS == 1:
            count = tl.where(tl.max(row[6], 0) == rs.UNCOUNTED, 0, last)
        for i in tl.range(0, count, num_stages=STAGES):
            new = visit(
                view, read, last - 1 - i, row, row[7], factor, grad, inverse_temperature, param, FORMULA, SCORE,
                INFINITE, STORE, regime if SPLIT else rs.MIXED, True, TYPE, LANES, STEPS,
            )  # fmt: skip
            value += new[0]
            row_sum += new[1]
            lowest = tl.minimum(lowest, new[2])
    if SPLIT and STORE:
        count = tl.where(tl.max(row[6], 0) == rs.UNCOUNTED, last, 0)
        for i in tl.range(0, count):
            store_tile(view, grad, i, tl.zeros((ROWS, LANES, STEPS), TYPE), True, LANES, STEPS)
    total = row[7]
    if SCORE == "sum":
        total = tl.sum(row_sum, 1)
    if SCORE == "sum" and grad is not None:
        for i in tl.range(0, last + 1, num_stages=STAGES):
            visit(
                view, read, i, row, total, factor, grad, inverse_temperature, param, FORMULA, SCORE, INFINITE, True,
                rs.MIXED, False, TYPE, LANES, STEPS,
            )  # fmt: skip
    return tl.sum(value, 1), total, tl.min(lowest, 1)


@triton.jit
def whole_rows(
    view, read, shift, factor, grad, inverse_temperature, param, FORMULA: tl.constexpr, SCORE: tl.constexpr,
    INFINITE: tl.constexpr, GAP: tl.constexpr, TYPE: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Rows that fit in one tile, every pass over the same registers: as walk_terms, and the rows' state."""
    s, t = load_tile(view, read, 0, False, TYPE, LANES, STEPS)
    row = rs.finish(rs.of_tile(s, t, shift, inverse_temperature, GAP), shift, inverse_temperature, GAP)
    counted = (row[6] != rs.UNCOUNTED)[:, None, None]
    s = tl.where(counted, s, -float("inf"))  # a NaN opposite a row of impossible classes must not count
    t = tl.where(counted, t, -float("inf"))
    new = terms(row, s, t, inverse_temperature, param, FORMULA, INFINITE, rs.MIXED)
    row_sum = row[7]
    if SCORE == "sum":
        row_sum = tl.sum(tl.sum(new[2] * new[1], 2), 1)
    if grad is not None:
        store_tile(view, grad, 0, tile_gradient(new, row_sum, factor, SCORE), False, LANES, STEPS)
    return row, tl.sum(tl.sum(new[0], 2), 1), row_sum, tl.min(tl.min(new[4], 2), 1)


@triton.jit
def forward_kernel(
    student, teacher, mask, mask_sum, grad, row_value, partial, state, n_rows, n_classes, row_sizes, class_sizes,
    row_strides, class_strides, inverse_temperature: tl.float64, scale: tl.float64, param: tl.float64,
    grad_factor: tl.float64, FORMULA: tl.constexpr, SCORE: tl.constexpr, INFINITE: tl.constexpr, TYPE: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr, LOOPED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """ROWS rows: values, the program's sums (values, weights of counted and uncounted rows), the gradient or state.

    row_value [n_rows], partial [programs, 3], state [n_rows, 8]; what is None is not wanted. Strides are tuples for
    student, teacher and gradient. The gradient is multiplied by grad_factor, and divided by mask_sum if given.
    """
    inverse_temperature = number(inverse_temperature, TYPE)
    param = number(param, TYPE)
    factor = number(grad_factor, TYPE)
    if mask_sum is not None:
        factor = tl.where(tl.load(mask_sum) != 0, factor / tl.load(mask_sum), 0.0)
    GAP: tl.constexpr = SCORE == "linear"
    program = tl.program_id(0)
    row = tl.cast(program, INDEX) * ROWS + tl.arange(0, ROWS)
    exists = row < n_rows
    weight, read = row_weights(mask, row, n_rows, TYPE)
    view = logits(student, teacher, row, n_classes, row_sizes, class_sizes, row_strides, class_strides)
    target = None
    if grad is not None:
        target = (at_rows(grad, row, row_sizes, row_strides[2]), class_strides[2], exists)
    shift = first_gap(view, read, TYPE)
    if LOOPED:
        part = walk_statistics(view, read, shift, inverse_temperature, GAP, TYPE, ROWS, LANES, STEPS, STAGES)
        state_row = rs.finish(part, shift, inverse_temperature, GAP)
        value, row_sum, lowest = walk_terms(
            view, read & (state_row[6] != rs.UNCOUNTED), state_row, weight * factor, target, inverse_temperature, param,
            FORMULA, SCORE, INFINITE, TYPE, ROWS, LANES, STEPS, STAGES,
        )  # fmt: skip
    else:
        state_row, value, row_sum, lowest = whole_rows(
            view, read, shift, weight * factor, target, inverse_temperature, param, FORMULA, SCORE, INFINITE, GAP, TYPE,
            LANES, STEPS,
        )  # fmt: skip
    infinite = (lowest == -float("inf")) | (row_sum == float("inf"))
    value = tl.where(infinite, float("inf") * state_row[1] * state_row[3], value)  # NaN if a sum is NaN
    value *= number(scale, TYPE) * weight
    counted = read & (state_row[6] != rs.UNCOUNTED)
    if row_value is not None:
        tl.store(row_value + row, value, mask=exists)
    if partial is not None:
        at = partial + 3 * tl.cast(program, tl.int64)
        tl.store(at, tl.sum(value, 0))
        tl.store(at + 1, tl.sum(tl.where(counted, weight, 0.0), 0))
        tl.store(at + 2, tl.sum(tl.where(counted, 0.0, tl.abs(weight)), 0))
    if state is not None:
        at = state + row.to(tl.int64) * 8
        for i in tl.static_range(7):
            tl.store(at + i, state_row[i], mask=exists)
        tl.store(at + 7, row_sum, mask=exists)


@triton.jit
def backward_kernel(
    student, teacher, mask, upstream, norm, grad, state, n_rows, n_classes, row_sizes, class_sizes, row_strides,
    class_strides, inverse_temperature: tl.float64, param: tl.float64, grad_factor: tl.float64,
    FORMULA: tl.constexpr, SCORE: tl.constexpr, INFINITE: tl.constexpr, PER_ROW: tl.constexpr, TYPE: tl.constexpr, INDEX: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """One tile of the gradient a program, from the rows' state. upstream is [n_rows] if PER_ROW, else one number."""
    inverse_temperature = number(inverse_temperature, TYPE)
    n_tiles = tl.cdiv(n_classes, LANES * STEPS)
    program = tl.cast(tl.program_id(0), tl.int64)
    tile = program % n_tiles
    row = tl.cast(program // n_tiles, INDEX) * ROWS + tl.arange(0, ROWS)
    exists = row < n_rows
    weight, read = row_weights(mask, row, n_rows, TYPE)
    at = state + row.to(tl.int64) * 8
    state_row = (
        tl.load(at, mask=read, other=0.0),
        tl.load(at + 1, mask=read, other=0.0),
        tl.load(at + 2, mask=read, other=0.0),
        tl.load(at + 3, mask=read, other=0.0),
        tl.load(at + 4, mask=read, other=0.0),
        tl.load(at + 5, mask=read, other=0.0),
        tl.load(at + 6, mask=read, other=rs.UNCOUNTED),
        tl.load(at + 7, mask=read, other=0.0),
    )
    factor = weight * tl.load(norm) * number(grad_factor, TYPE)
    if PER_ROW:
        factor *= tl.load(upstream + row, mask=exists, other=0.0)
    else:
        factor *= tl.load(upstream)
    view = logits(student, teacher, row, n_classes, row_sizes, class_sizes, row_strides, class_strides)
    target = (at_rows(grad, row, row_sizes, row_strides[2]), class_strides[2], exists)
    s, t = load_tile(view, read & (state_row[6] != rs.UNCOUNTED), tile, False, TYPE, LANES, STEPS)
    new = terms(state_row, s, t, inverse_temperature, number(param, TYPE), FORMULA, INFINITE, rs.MIXED)
    store_tile(view, target, tile, tile_gradient(new, state_row[7], factor, SCORE), False, LANES, STEPS)


@triton.jit
def total_kernel(
    partial, planned, value, norm, n_programs, n_rows, scale: tl.float64, MEAN: tl.constexpr, WITH_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program adds partial [n_programs, 3] in float64, in a fixed order, and writes value and norm.

    MEAN: value = sum / weights of counted rows, 0 if nothing counts; else sum * scale. norm is the common factor of every
    row; WITH_GRAD, when the gradient already has it, norm is 1, or what corrects a mean over `planned` weights (n_rows if
    None) for the rows that turned out not to count.
    """
    at = tl.arange(0, BLOCK).to(tl.int64)
    sums = tl.zeros((BLOCK,), tl.float64)
    counted = tl.zeros((BLOCK,), tl.float64)
    uncounted = tl.zeros((BLOCK,), tl.float64)
    for start in tl.range(0, n_programs, BLOCK):
        inside = start + at < n_programs
        row = partial + 3 * (start + at)
        sums += tl.load(row, mask=inside, other=0.0).to(tl.float64)
        counted += tl.load(row + 1, mask=inside, other=0.0).to(tl.float64)
        uncounted += tl.load(row + 2, mask=inside, other=0.0).to(tl.float64)
    total = tl.sum(sums, 0)
    weights = tl.sum(counted, 0)
    lost = tl.sum(uncounted, 0)
    if MEAN:
        some = weights != 0
        safe = tl.where(some, weights, 1.0)
        result = tl.where(some, total / safe, 0.0)
        factor = 1 / safe
        if WITH_GRAD:
            if planned is None:
                factor *= tl.cast(n_rows, tl.float64)
            else:
                factor *= tl.load(planned).to(tl.float64)
            factor = tl.where(some & (lost > 0), factor, 1.0)
    else:
        result = total * number(scale, tl.float64)
        factor = number(1.0 if WITH_GRAD else scale, tl.float64)
    tl.store(value, result.to(value.dtype.element_ty))
    tl.store(norm, factor.to(norm.dtype.element_ty))
