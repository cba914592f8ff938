"""The kernels of normalized_mse: means by channel, norms and distances by position, gradients either way.

r = scale (z_s - ratio z_t), value |r|^2, gradient (2/|z_s|) (r - <a, r> a) with a = scale z_s; see
csrc/normalized_mse.h.
"""

import triton
import triton.language as tl

from .common import number, rounded, square_root


@triton.jit
def means_kernel(x, xb, xp, xc, means, positions, channels, TYPE: tl.constexpr, PB: tl.constexpr):
    """Program (b, c): a mean, and then the mean of what rounding left."""
    row = tl.program_id(0).to(tl.int64)
    x += row // channels * xb + row % channels * xc
    at = tl.arange(0, PB).to(tl.int64)
    mean = tl.zeros((), TYPE)
    for _ in tl.static_range(2):
        left = tl.zeros((PB,), TYPE)
        for first in range(0, positions, PB):
            p = first + at
            left += tl.where(
                p < positions, tl.load(x + p * xp, mask=p < positions, other=0).to(TYPE) - mean, 0
            )
        mean += tl.sum(left) / positions.to(TYPE)
    tl.store(means + row, mean)


@triton.jit
def sides(student, sp, teacher, tp, s_mean, t_mean, here, CENTER: tl.constexpr, TYPE: tl.constexpr):
    """Both sides at some offsets, their means taken off."""
    s = tl.load(student + sp, mask=here, other=0).to(TYPE)
    t = tl.load(teacher + tp, mask=here, other=0).to(TYPE)
    if CENTER:
        s = tl.where(here, s - s_mean, 0)
        t = tl.where(here, t - t_mean, 0)
    return s, t


@triton.jit
def positions_kernel(
    student,
    sb,
    sp,
    sc,
    teacher,
    tb,
    tp,
    tc,
    grad,
    gb,
    gp,
    gc,
    s_means,
    t_means,
    upstream,
    upstream_step,
    state,
    value,
    eps,
    scale,
    positions,
    channels,
    rows,
    CENTER: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    TYPE: tl.constexpr,
    CB: tl.constexpr,
):
    """Program (b, p). state [4, rows]: scale, ratio, <a, r>, and what the gradient is multiplied by."""
    row = tl.program_id(0).to(tl.int64)
    b, p = row // positions, row % positions
    student += b * sb + p * sp
    teacher += b * tb + p * tp
    s_means += b * channels
    t_means += b * channels
    at = tl.arange(0, CB).to(tl.int64)
    ss = tl.zeros((CB,), TYPE)
    tt, rr, ar = ss, ss, ss
    s_mean, t_mean = ss, ss
    for first in range(0, channels, CB):
        c = first + at
        here = c < channels
        if CENTER:
            s_mean, t_mean = (
                tl.load(s_means + c, mask=here, other=0),
                tl.load(t_means + c, mask=here, other=0),
            )
        s, t = sides(student, c * sc, teacher, c * tc, s_mean, t_mean, here, CENTER, TYPE)
        ss += s * s
        tt += t * t
    tiny = number(eps, TYPE)
    s_norm, t_norm = square_root(tl.sum(ss)), square_root(tl.sum(tt))
    s_least = tl.where(s_norm <= tiny, tiny, s_norm)
    t_least = tl.where(t_norm <= tiny, tiny, t_norm)
    of_s = tl.where(s_least == 0, 0, 1 / tl.where(s_least == 0, 1, s_least))
    of_t = tl.where(t_least == 0, 0, 1 / tl.where(t_least == 0, 1, t_least))
    by = tl.where(of_s == 0, of_t, of_s)
    ratio = tl.where(of_s == 0, 1, of_t / tl.where(of_s == 0, 1, of_s))
    for first in range(0, channels, CB):
        c = first + at
        here = c < channels
        if CENTER:
            s_mean, t_mean = (
                tl.load(s_means + c, mask=here, other=0),
                tl.load(t_means + c, mask=here, other=0),
            )
        s, t = sides(student, c * sc, teacher, c * tc, s_mean, t_mean, here, CENTER, TYPE)
        r = (s - t * ratio) * by
        rr += r * r
        ar += s * by * r
    along, times = tl.sum(ar), number(scale, TYPE)
    tl.store(value + row, tl.sum(rr) * times)
    k = (
        tl.where(s_norm <= tiny, 0, 2 / tl.where(s_norm <= tiny, 1, s_norm))
        * times
        * tl.load(upstream + row * upstream_step)
    )
    tl.store(state + row, by)
    tl.store(state + rows + row, ratio)
    tl.store(state + 2 * rows + row, along)
    tl.store(state + 3 * rows + row, k)
    if HAS_GRAD and not CENTER:
        for first in range(0, channels, CB):
            c = first + at
            here = c < channels
            s, t = sides(student, c * sc, teacher, c * tc, s_mean, t_mean, here, False, TYPE)
            g = tl.where(k == 0, 0, k * ((s - t * ratio) * by - along * (s * by)))
            tl.store(grad + b * gb + p * gp + c * gc, rounded(g, grad.dtype.element_ty), mask=here)


@triton.jit
def centred_kernel(
    student,
    sb,
    sp,
    sc,
    teacher,
    tb,
    tp,
    tc,
    grad,
    gb,
    gp,
    gc,
    s_means,
    t_means,
    state,
    positions,
    channels,
    rows,
    TYPE: tl.constexpr,
    PB: tl.constexpr,
):
    """Program (b, c): the channel's gradient minus its mean over positions; made twice, stored once."""
    row = tl.program_id(0).to(tl.int64)
    b, c = row // channels, row % channels
    student += b * sb + c * sc
    teacher += b * tb + c * tc
    grad += b * gb + c * gc
    state += b * positions
    s_mean, t_mean = tl.load(s_means + row), tl.load(t_means + row)
    at = tl.arange(0, PB).to(tl.int64)
    mean = tl.zeros((), TYPE)
    for turn in tl.static_range(2):
        sum = tl.zeros((PB,), TYPE)
        for first in range(0, positions, PB):
            p = first + at
            here = p < positions
            s, t = sides(student, p * sp, teacher, p * tp, s_mean, t_mean, here, True, TYPE)
            by = tl.load(state + p, mask=here, other=0)
            ratio = tl.load(state + rows + p, mask=here, other=0)
            along = tl.load(state + 2 * rows + p, mask=here, other=0)
            k = tl.load(state + 3 * rows + p, mask=here, other=0)
            g = tl.where(k == 0, 0, k * ((s - t * ratio) * by - along * (s * by)))
            sum += g
            if turn == 1:
                tl.store(grad + p * gp, rounded(g - mean, grad.dtype.element_ty), mask=here)
        mean = tl.sum(sum) / positions.to(TYPE)
