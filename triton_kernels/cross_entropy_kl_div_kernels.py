"""The two kernels of cross_entropy_kl_div, on the passes of the divergences: the class number joins the tile.

Forward takes the divergence's statistics of a row, then the terms of KL and, from the same maximum, the sums
at temperature 1: from registers where a tile holds the row, else in a second walk, backwards. Backward goes
over every tile once, with the rows' state: the divergence's eight numbers, with the others' sum at
temperature 1 in place of the row sum, and the sum of the weights.
"""

import triton
import triton.language as tl

from . import row_statistics as rs
from .common import element_offset, log1p, number
from .divergence_passes import terms
from .kl_div import formula
from .tiles import first_gap, grad_rows, load_tile, row_weights, store_tile, tile_width, view_logits

STATE = tl.constexpr(9)


@triton.jit
def labels(index, row_number, read, n_classes, ignore_index):
    """The rows' classes, and which rows are read; a number that is no class leaves its row out of memory."""
    label = tl.load(index + row_number, mask=read, other=ignore_index)
    read = read & (label != ignore_index)
    return label, read, read & ((label < 0) | (label >= n_classes))


@triton.jit
def class_weights(class_weight, classes, n_classes, TYPE: tl.constexpr):
    """The weights of classes [lanes, steps], as [1, lanes, steps]; 0 behind the last."""
    inside = classes < n_classes
    if class_weight is None:
        weight = tl.where(inside, tl.full(classes.shape, 1.0, TYPE), 0.0)
    else:
        weight = tl.load(class_weight + classes, mask=inside, other=0.0)
    return weight[None, :, :]


@triton.jit
def own_weight(class_weight, label, known, TYPE: tl.constexpr):
    """The weights of the rows' own classes."""
    if class_weight is None:
        return tl.full(label.shape, 1.0, TYPE)
    else:
        return tl.load(class_weight + label, mask=known, other=0.0)


@triton.jit
def target_logit(view, label, known, TYPE: tl.constexpr):
    """The student's logit of the rows' own classes."""
    at = view[3] + element_offset(tl.where(known, label, 0)[:, None, None], view[1], view[4])
    logit = tl.load(at, mask=known[:, None, None], other=0.0).to(TYPE)
    return tl.sum(tl.sum(logit, 2), 1)


@triton.jit
def hard_tile(view, tile, s, row, label, TYPE: tl.constexpr):
    """Class numbers [1, lanes, steps] of a tile, which are the rows' own, and e^{s - max}."""
    classes = view[2] + tl.cast(tile, tl.int64) * tile_width(view)
    own = classes[None, :, :] == label[:, None, None]
    return classes, own, rs.exponential(s, row[0][:, None, None], number(1.0, TYPE))


@triton.jit
def sums_of_tile(view, tile, s, t, row, label, class_weight, numbers, SMOOTH: tl.constexpr):
    """KL's terms, the lowest log q/p, the others' e^{s - max}, the weights and those times max - s: sums
    [rows, lanes]."""
    TYPE: tl.constexpr = s.dtype
    new = terms(row, s, t, numbers, formula, "student", rs.MIXED)
    classes, own, e = hard_tile(view, tile, s, row, label, TYPE)
    others = tl.sum(tl.where(own, 0.0, e), 2)
    weights = tl.zeros_like(others)
    smooth = weights
    if SMOOTH:
        w = class_weights(class_weight, classes, view[0], TYPE)
        weights += tl.sum(w, 2)
        smooth = tl.sum(tl.where(w == 0, 0.0, w * (row[0][:, None, None] - s)), 2)
    return tl.sum(new[0], 2), tl.min(new[4], 2), others, weights, smooth


@triton.jit
def cross_entropy_kl_forward_kernel(
    student, teacher, index, class_weight, mask, ce_value, ce_weight, kl_value, kl_weight, state, n_rows,
    ignore_index, geometry, inverse_temperature: tl.float64, scale: tl.float64, smoothing: tl.float64,
    SMOOTH: tl.constexpr, TYPE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
    STEPS: tl.constexpr, LOOPED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """ROWS rows: both values, times the mask, what they weigh in their counts, and the state [n_rows, 9]."""
    numbers = (number(inverse_temperature, TYPE), number(0.0, TYPE))
    row_number = tl.cast(tl.program_id(0), INDEX) * ROWS + tl.arange(0, ROWS)
    exists = row_number < n_rows
    weight, read = row_weights(mask, row_number, n_rows, TYPE)
    label, read, wild = labels(index, row_number, read, geometry[0], ignore_index)
    view = view_logits(student, teacher, row_number, geometry, LANES, STEPS)
    shift = first_gap(view, read, TYPE)
    if LOOPED:
        tiles = tl.cdiv(view[0], tile_width(view))
        part = rs.no_statistics(ROWS, LANES, TYPE)
        for i in tl.range(0, tiles, num_stages=STAGES):
            s, t = load_tile(view, read, i, TYPE, False)
            part = rs.fold(part, s, t, shift[:, None, None], numbers[0], True, False)
        row = rs.finish(rs.join_lanes(part, numbers[0]), shift, numbers[0], False)
        read = read & (row[6] != rs.UNCOUNTED)
        zero = tl.zeros((ROWS, LANES), TYPE)
        kl, lowest, others, weights, smooth = zero, zero, zero, zero, zero
        for i in tl.range(0, tiles, num_stages=STAGES):
            s, t = load_tile(view, read, tiles - 1 - i, TYPE, False)
            new = sums_of_tile(view, tiles - 1 - i, s, t, row, label, class_weight, numbers, SMOOTH)
            kl += new[0]
            lowest = tl.minimum(lowest, new[1])
            others += new[2]
            weights += new[3]
            smooth += new[4]
    else:
        s, t = load_tile(view, read, 0, TYPE, False)
        row = rs.finish(rs.of_tile(s, t, shift, numbers[0], False), shift, numbers[0], False)
        read = read & (row[6] != rs.UNCOUNTED)
        s = tl.where(read[:, None, None], s, -float("inf"))
        t = tl.where(read[:, None, None], t, -float("inf"))
        kl, lowest, others, weights, smooth = sums_of_tile(
            view, 0, s, t, row, label, class_weight, numbers, SMOOTH
        )
    kl_row = tl.sum(kl, 1)
    kl_row = tl.where(tl.min(lowest, 1) == -float("inf"), float("inf") * row[1] * row[3], kl_row)
    others_row, weights_row = tl.sum(others, 1), tl.sum(weights, 1)
    known = read & (wild == 0)
    below_max = row[0] - target_logit(view, label, known, TYPE)
    e = tl.exp(-below_max)
    sum = others_row + e
    near = others_row < 0.5 * e
    loss = tl.where(near, log1p(others_row / tl.where(near, e, 1.0)), tl.log(sum) + below_max)
    of_target = own_weight(class_weight, label, known, TYPE)
    part_picked = number(1.0, TYPE) - number(smoothing, TYPE)
    ce = tl.where(part_picked * of_target == 0, 0.0, part_picked * of_target * loss)
    if SMOOTH:
        each = number(smoothing, TYPE) / view[0]
        ce += each * (tl.sum(smooth, 1) + weights_row * tl.log(sum))
    ce = tl.where(wild, float("nan"), ce)
    tl.store(ce_value + row_number, tl.where(read, ce * weight, 0.0), mask=exists)
    tl.store(ce_weight + row_number, tl.where(read, of_target * weight, 0.0), mask=exists)
    tl.store(kl_value + row_number, tl.where(read, kl_row * number(scale, TYPE) * weight, 0.0), mask=exists)
    tl.store(kl_weight + row_number, tl.where(read, weight, 0.0), mask=exists)
    at = state + row_number.to(tl.int64) * STATE
    for i in tl.static_range(7):
        tl.store(at + i, row[i], mask=exists)
    tl.store(at + 7, others_row, mask=exists)
    tl.store(at + 8, weights_row, mask=exists)


@triton.jit
def cross_entropy_kl_backward_kernel(
    student, teacher, index, class_weight, mask, ce_upstream, ce_norm, kl_upstream, kl_norm, state, grad,
    n_rows, ignore_index, geometry, inverse_temperature: tl.float64, scale: tl.float64, smoothing: tl.float64,
    SMOOTH: tl.constexpr, PER_ROW: tl.constexpr, TYPE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """One tile of the gradient a program, from the rows' state; upstreams: [n_rows] if PER_ROW, else 0-d."""
    numbers = (number(inverse_temperature, TYPE), number(0.0, TYPE))
    n_tiles = tl.cdiv(geometry[0], LANES * STEPS)
    program = tl.cast(tl.program_id(0), tl.int64)
    tile = program % n_tiles
    row_number = tl.cast(program // n_tiles, INDEX) * ROWS + tl.arange(0, ROWS)
    exists = row_number < n_rows
    weight, read = row_weights(mask, row_number, n_rows, TYPE)
    label, read, wild = labels(index, row_number, read, geometry[0], ignore_index)
    known = read & (wild == 0)
    row = rs.load_rows(state, row_number, read, STATE)
    weights_row = tl.load(state + row_number.to(tl.int64) * STATE + 8, mask=read, other=0.0)
    counted = read & (row[6] != rs.UNCOUNTED)
    if PER_ROW:
        hard = tl.load(ce_upstream + row_number, mask=exists, other=0.0) * weight * tl.load(ce_norm)
        soft = tl.load(kl_upstream + row_number, mask=exists, other=0.0) * weight * tl.load(kl_norm)
    else:
        hard = tl.load(ce_upstream) * weight * tl.load(ce_norm)
        soft = tl.load(kl_upstream) * weight * tl.load(kl_norm)
    counted = counted & ((hard != 0) | (soft != 0))
    view = view_logits(student, teacher, row_number, geometry, LANES, STEPS)
    others = row[7]
    e = tl.exp(target_logit(view, label, known, TYPE) - row[0])
    sum = others + e
    picked = (
        (number(1.0, TYPE) - number(smoothing, TYPE)) * own_weight(class_weight, label, known, TYPE) * hard
    )
    each = number(smoothing, TYPE) / view[0] * hard
    of_q = (picked + each * weights_row) / sum
    at_target = each * weights_row * e / sum - picked * others / sum
    s, t = load_tile(view, counted, tile, TYPE, False)
    new = terms(row, s, t, numbers, formula, "student", rs.MIXED)
    classes, own, q = hard_tile(view, tile, s, row, label, TYPE)
    slope = tl.where(own, at_target[:, None, None], q * of_q[:, None, None])
    if SMOOTH:
        slope -= class_weights(class_weight, classes, view[0], TYPE) * each[:, None, None]
    slope += new[3] * (soft * number(scale, TYPE) * numbers[0])[:, None, None]
    slope = tl.where(wild[:, None, None], float("nan"), slope)
    slope = tl.where(counted[:, None, None], slope, 0.0)
    store_tile(view, grad_rows(grad, row_number, geometry, exists), tile, slope, False)
