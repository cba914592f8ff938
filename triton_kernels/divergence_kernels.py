"""The kernels of the divergence family: forward (with or without the gradient), backward, and the last sum.

Bytes a class, b the item size: forward reads 2b and, with the gradient, writes b: the least possible, as long
as a row stays in registers (up to rows.ONE_TILE classes) or in L2 between passes. Longer rows are walked
again, in the opposite order each time, so that a pass begins with what the last one left in the cache: twice
in all for the KLs, three times where the gradient needs a sum that is known only after the second pass.
Backward reads 2b and writes b. Nothing is added with atomics: a program writes its sums, and `total_kernel`
adds them in a fixed order.
"""

import triton
import triton.language as tl

from . import row_statistics as rs
from .common import number
from .divergence_passes import terms, tile_gradient, walk_statistics, walk_terms, whole_rows
from .tiles import first_gap, grad_rows, load_tile, row_weights, store_tile, view_logits


@triton.jit
def forward_kernel(
    student, teacher, mask, mask_sum, grad, row_value, partial, state, n_rows, geometry,
    inverse_temperature: tl.float64, scale: tl.float64, param: tl.float64, grad_factor: tl.float64,
    FORMULA: tl.constexpr, SCORE: tl.constexpr, INFINITE: tl.constexpr, TYPE: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr, LOOPED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """ROWS rows: values, sums of values and of the weights of counted and uncounted rows, gradient or state.

    row_value [n_rows], partial [programs, 3], state [n_rows, 8]; what is None is not wanted. geometry: see
    tiles.py. The gradient is multiplied by grad_factor, and divided by mask_sum if given.
    """
    numbers = (number(inverse_temperature, TYPE), number(param, TYPE))
    factor = number(grad_factor, TYPE)
    if mask_sum is not None:
        factor = tl.where(tl.load(mask_sum) != 0, factor / tl.load(mask_sum), 0.0)
    GAP: tl.constexpr = SCORE == "linear"
    program = tl.program_id(0)
    row_number = tl.cast(program, INDEX) * ROWS + tl.arange(0, ROWS)
    exists = row_number < n_rows
    weight, read = row_weights(mask, row_number, n_rows, TYPE)
    view = view_logits(student, teacher, row_number, geometry, LANES, STEPS)
    target = None
    if grad is not None:
        target = grad_rows(grad, row_number, geometry, exists)
    shift = first_gap(view, read, TYPE)
    if LOOPED:
        part = walk_statistics(view, read, shift, numbers[0], GAP, STAGES)
        row = rs.finish(part, shift, numbers[0], GAP)
        read = read & (row[6] != rs.UNCOUNTED)
        row, value, lowest = walk_terms(
            view, read, row, weight * factor, target, numbers, FORMULA, SCORE, INFINITE, STAGES
        )
    else:
        row, value, lowest = whole_rows(
            view, read, shift, weight * factor, target, numbers, FORMULA, SCORE, INFINITE, GAP
        )
    counted = read & (row[6] != rs.UNCOUNTED)
    infinite = (lowest == -float("inf")) | (row[7] == float("inf"))
    value = tl.where(infinite, float("inf") * row[1] * row[3], value)  # NaN if a sum is NaN
    value *= number(scale, TYPE) * weight
    if row_value is not None:
        tl.store(row_value + row_number, value, mask=exists)
    if partial is not None:
        at = partial + 3 * tl.cast(program, tl.int64)
        tl.store(at, tl.sum(value, 0))
        tl.store(at + 1, tl.sum(tl.where(counted, weight, 0.0), 0))
        tl.store(at + 2, tl.sum(tl.where(counted, 0.0, tl.abs(weight)), 0))
    if state is not None:
        rs.store_rows(state, row_number, row, exists)


@triton.jit
def backward_kernel(
    student, teacher, mask, upstream, norm, grad, state, n_rows, geometry, inverse_temperature: tl.float64,
    param: tl.float64, grad_factor: tl.float64,
    FORMULA: tl.constexpr, SCORE: tl.constexpr, INFINITE: tl.constexpr, PER_ROW: tl.constexpr,
    TYPE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """One tile of the gradient a program, from the rows' state; upstream is [n_rows] if PER_ROW, else 0-d."""
    numbers = (number(inverse_temperature, TYPE), number(param, TYPE))
    n_tiles = tl.cdiv(geometry[0], LANES * STEPS)
    program = tl.cast(tl.program_id(0), tl.int64)
    tile = program % n_tiles
    row_number = tl.cast(program // n_tiles, INDEX) * ROWS + tl.arange(0, ROWS)
    exists = row_number < n_rows
    weight, read = row_weights(mask, row_number, n_rows, TYPE)
    row = rs.load_rows(state, row_number, read)
    factor = weight * tl.load(norm) * number(grad_factor, TYPE)
    if PER_ROW:
        factor *= tl.load(upstream + row_number, mask=exists, other=0.0)
    else:
        factor *= tl.load(upstream)
    counted = read & (row[6] != rs.UNCOUNTED)
    factor = tl.where(counted, factor, 0.0)  # whatever came from upstream
    view = view_logits(student, teacher, row_number, geometry, LANES, STEPS)
    target = grad_rows(grad, row_number, geometry, exists)
    s, t = load_tile(view, counted, tile, TYPE, False)
    new = terms(row, s, t, numbers, FORMULA, INFINITE, rs.MIXED)
    store_tile(view, target, tile, tile_gradient(new, row[7], factor, SCORE), False)


@triton.jit
def total_kernel(
    partial, planned, value, norm, n_programs, n_rows, scale: tl.float64, MEAN: tl.constexpr,
    WITH_GRAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program adds partial [n_programs, 3] in float64, in a fixed order, and writes value and norm.

    MEAN: value = sum / weights of counted rows, 0 if nothing counts; else sum * scale. norm is the common
    factor of every row; WITH_GRAD, when the gradient already has it, norm is 1, or what corrects a mean over
    `planned` weights (n_rows if None) for the rows that turned out not to count.
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
