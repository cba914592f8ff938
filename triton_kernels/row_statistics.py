"""Pass 1 of the divergences: maxima, sums of exponentials, and how far two rows are from being the same.

With t, s the logits of teacher and student, m their maxima, k the first class's t - s, d = ((t - s) - k) / T,

    log sum e^{t/T} - log sum e^{s/T} = k/T + log1p(D / S),
    D = sum e^{(s-m)/T} expm1(d),   S = sum e^{(s-m)/T}.

The right side keeps all digits that the left side cancels where the rows are *near*: every |d| <= 1/4. There
what t - s loses to rounding is added back, so that k may be large. Elsewhere k is the difference of the
maxima, and the plain sums serve.

A tile is [rows, lanes, steps]: steps lie in a thread, lanes across threads. A part is a tuple of [rows,
lanes], and parts merge: each lane folds its classes into a part of its own (maxima, and sums relative to
them), and the lanes of a row meet once, at the end.
"""

import triton
import triton.language as tl

from .common import expm1_quarter, log1p

NEAR = tl.constexpr(0.25)
LOG2_E = tl.constexpr(1.4426950408889634)
# Regimes of a row, as csrc/common/divergence.h numbers them.
FAR = tl.constexpr(0)
NEARBY = tl.constexpr(1)
UNCOUNTED = tl.constexpr(-1)
MIXED = tl.constexpr(2)  # of a kernel: rows of any regime


@triton.jit
def reference(maximum):
    """A maximum to subtract: 0 while every class is impossible, since -inf - -inf is not a number."""
    return tl.where(maximum == -float("inf"), 0.0, maximum)


@triton.jit
def exponential(x, maximum, inverse_temperature):
    """e^{(x - maximum) / T}."""
    return tl.exp2((x - maximum) * (inverse_temperature * LOG2_E))


@triton.jit
def dropped(student, teacher):
    """What t - s loses to rounding, exactly (Knuth's two-sum); 0 where a side is infinite."""
    difference = teacher - student
    s = teacher - difference
    t = difference + s
    error = (teacher - t) - (student - s)
    return tl.where(error == error, error, 0.0)


@triton.jit
def sums(student, teacher, maxima, shift, inverse_temperature, EXCESS: tl.constexpr, GAP: tl.constexpr):
    """A tile's part relative to `maxima`: S_s, S_t, D, lowest and highest gap, sum e^{(s-m)/T} gap; [rows,
    lanes].

    gap = (t - s) - shift, 0 where the class is impossible on both sides. EXCESS: D and the gaps' range are
    wanted. GAP: the sum of gaps is, and the lowest; -1e30 or less is a class that is impossible for the
    teacher alone.
    """
    weight = exponential(student, maxima[0], inverse_temperature)
    student_sum = tl.sum(weight, 2)
    teacher_sum = tl.sum(exponential(teacher, maxima[1], inverse_temperature), 2)
    excess = tl.zeros_like(student_sum)
    low = tl.zeros_like(student_sum)
    high = tl.zeros_like(student_sum)
    gap_sum = tl.zeros_like(student_sum)
    if EXCESS or GAP:
        gap = (teacher - student) - shift
        if EXCESS:
            gap = tl.where(gap == gap, gap, 0.0)  # a NaN logit stays in the sums of exponentials
            gap += dropped(student, teacher)
            high = tl.max(gap, 2)
            near = tl.minimum(tl.maximum(gap * inverse_temperature, -NEAR), NEAR)
            excess = tl.sum(weight * expm1_quarter(near), 2)
        gap = tl.where(gap < 1e30, gap, 1e30)  # where s (or both) is -inf: of weight 0
        low = tl.min(gap, 2)
        if GAP:
            gap_sum = tl.sum(weight * tl.maximum(gap, -1e30), 2)
    return student_sum, teacher_sum, excess, low, high, gap_sum


@triton.jit
def no_statistics(ROWS: tl.constexpr, LANES: tl.constexpr, TYPE: tl.constexpr):
    """The part of no classes: student max, teacher max, and the six sums."""
    none = tl.full((ROWS, LANES), -float("inf"), TYPE)
    zero = tl.zeros((ROWS, LANES), TYPE)
    return none, none, zero, zero, zero, zero, zero, zero


@triton.jit
def fold(part, student, teacher, shift, inverse_temperature, EXCESS: tl.constexpr, GAP: tl.constexpr):
    """`part` with a tile's classes in it."""
    student_max = tl.maximum(part[0], tl.max(student, 2))
    teacher_max = tl.maximum(part[1], tl.max(teacher, 2))
    maxima = (reference(student_max)[:, :, None], reference(teacher_max)[:, :, None])
    new = sums(student, teacher, maxima, shift, inverse_temperature, EXCESS, GAP)
    student_scale = exponential(part[0], reference(student_max), inverse_temperature)
    teacher_scale = exponential(part[1], reference(teacher_max), inverse_temperature)
    return (
        student_max,
        teacher_max,
        part[2] * student_scale + new[0],
        part[3] * teacher_scale + new[1],
        part[4] * student_scale + new[2],
        tl.minimum(part[5], new[3]),
        tl.maximum(part[6], new[4]),
        part[7] * student_scale + new[5],
    )


@triton.jit
def widest(part):
    """The largest |gap| of a part, one number."""
    return tl.max(tl.max(tl.maximum(part[6], -part[5]), 1), 0)


@triton.jit
def join_lanes(part, inverse_temperature):
    """The rows' statistics, [rows] each, from their lanes' parts."""
    student_max = tl.max(part[0], 1)
    teacher_max = tl.max(part[1], 1)
    student_scale = exponential(part[0], reference(student_max)[:, None], inverse_temperature)
    teacher_scale = exponential(part[1], reference(teacher_max)[:, None], inverse_temperature)
    return (
        student_max,
        teacher_max,
        tl.sum(part[2] * student_scale, 1),
        tl.sum(part[3] * teacher_scale, 1),
        tl.sum(part[4] * student_scale, 1),
        tl.min(part[5], 1),
        tl.max(part[6], 1),
        tl.sum(part[7] * student_scale, 1),
    )


@triton.jit
def of_tile(student, teacher, shift, inverse_temperature, GAP: tl.constexpr):
    """The rows' statistics where one tile holds whole rows: exponentials relative to the rows' own maxima."""
    student_max = tl.max(tl.max(student, 2), 1)
    teacher_max = tl.max(tl.max(teacher, 2), 1)
    maxima = (reference(student_max)[:, None, None], reference(teacher_max)[:, None, None])
    part = sums(student, teacher, maxima, shift[:, None, None], inverse_temperature, True, GAP)
    return (
        student_max,
        teacher_max,
        tl.sum(part[0], 1),
        tl.sum(part[1], 1),
        tl.sum(part[2], 1),
        tl.min(part[3], 1),
        tl.max(part[4], 1),
        tl.sum(part[5], 1),
    )


@triton.jit
def finish(part, shift, inverse_temperature, GAP: tl.constexpr):
    """The rows' state, eight numbers [rows] in the order of csrc/common/divergence.h.

    student max, 1 / S_s, teacher max, 1 / S_t, shift, log_ratio, regime, row sum. log q/p of a class is
    log_ratio - ((t - s) - shift) / T; the row sum, if GAP, its mean under q: KL(q || p).
    """
    student_sum = part[2]
    teacher_sum = part[3]
    counted = (student_sum != 0) & (teacher_sum != 0)  # one e^0 at least, unless every class is impossible
    near = tl.maximum(part[6], -part[5]) * inverse_temperature <= NEAR
    either = 0.0 * teacher_sum  # NaN if the teacher's row holds one: the student's gradient shall show it
    student_inverse = tl.where(counted, 1 / student_sum + either, 0.0)
    teacher_inverse = tl.where(counted, 1 / teacher_sum, 0.0)
    student_max = tl.where(counted, part[0], 0.0)
    teacher_max = tl.where(counted, part[1], 0.0)
    new_shift = tl.where(near & counted, shift, teacher_max - student_max)
    log_ratio = tl.where(near, log1p(part[4] * student_inverse), tl.log(teacher_sum * student_inverse))
    log_ratio = tl.where(counted, log_ratio, 0.0)
    regime = tl.where(counted, tl.where(near, NEARBY, FAR), UNCOUNTED).to(student_sum.dtype)
    row_sum = tl.zeros_like(student_sum)
    if GAP:
        mean_gap = part[7] * student_inverse + (shift - new_shift)
        row_sum = log_ratio - mean_gap * inverse_temperature
        row_sum = tl.where(part[5] <= -1e30, float("inf"), row_sum)
        row_sum = tl.where(counted, row_sum, 0.0)
    return student_max, student_inverse, teacher_max, teacher_inverse, new_shift, log_ratio, regime, row_sum


@triton.jit
def with_row_sum(row, row_sum):
    """The state with another row sum."""
    return row[0], row[1], row[2], row[3], row[4], row[5], row[6], row_sum


@triton.jit
def store_rows(state, row_number, row, exists):
    """Writes the state of rows `row_number` to state [n_rows, 8]."""
    at = state + row_number.to(tl.int64) * 8
    for i in tl.static_range(8):
        tl.store(at + i, row[i], mask=exists)


@triton.jit
def load_rows(state, row_number, read, NUMBERS: tl.constexpr = 8):
    """Reads the first eight of NUMBERS numbers of a row; rows that are not read are not counted."""
    at = state + row_number.to(tl.int64) * NUMBERS
    return (
        tl.load(at, mask=read, other=0.0),
        tl.load(at + 1, mask=read, other=0.0),
        tl.load(at + 2, mask=read, other=0.0),
        tl.load(at + 3, mask=read, other=0.0),
        tl.load(at + 4, mask=read, other=0.0),
        tl.load(at + 5, mask=read, other=0.0),
        tl.load(at + 6, mask=read, other=UNCOUNTED),
        tl.load(at + 7, mask=read, other=0.0),
    )
