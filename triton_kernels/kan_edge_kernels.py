"""The kernels of kan_edge_stats, whose formulas are there: a program walks the samples of a feature and a
tile of outputs, or the outputs of a feature and a tile of samples.
"""

import triton
import triton.language as tl

from .bspline import bases_at


@triton.jit
def edge_tile(
    x, x_row, x_step, base, grid, s, feature, samples, features, count,
    DEGREE: tl.constexpr, ORDER: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr,
    HAS_BASE: tl.constexpr, BASES: tl.constexpr,
):  # fmt: skip
    """B or B' [samples, bases] of a feature, and its base function (or slope) [samples]."""
    m = tl.arange(0, BASES)[None, :]
    point = tl.load(x + s * x_row + feature * x_step, mask=s < samples, other=0).to(TYPE)
    value = bases_at(point[:, None], grid + feature * count, m, count, DEGREE, ORDER, EXTRAPOLATION)
    value = tl.where((s < samples)[:, None], value, 0)
    branch = tl.zeros_like(point)
    if HAS_BASE:
        branch = tl.load(base + s * features + feature, mask=s < samples, other=0)
    return value, branch


@triton.jit
def weight_tile(
    weight, base_weight, feature, o, features, out, bases, HAS_BASE: tl.constexpr, BASES: tl.constexpr
):
    """The weights [bases, outputs] of a feature's edges, and their base weights [outputs]."""
    m = tl.arange(0, BASES)[:, None]
    here = (m < bases) & (o < out)[None, :]
    w = tl.load(weight + (feature * bases + m) * out + o[None, :], mask=here, other=0)
    by = tl.zeros(o.shape, w.dtype)
    if HAS_BASE:
        by = tl.load(base_weight + o * features + feature, mask=o < out, other=0)
    return w, by


@triton.jit
def edge_stats_kernel(
    x, x_row, x_step, base, grid, weight, base_weight, mean_abs, mean_square, variance, mean,
    samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    HAS_BASE: tl.constexpr, SAMPLES: tl.constexpr, BASES: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """The four statistics [O, I]: a program a feature and a tile of outputs."""
    tiles = tl.cdiv(out, OUT)
    block = tl.program_id(0).to(tl.int64)
    feature = block // tiles
    o = block % tiles * OUT + tl.arange(0, OUT)
    w, by = weight_tile(weight, base_weight, feature, o, features, out, bases, HAS_BASE, BASES)
    size = tl.zeros((OUT,), TYPE)
    center, deviation = size, size
    for begin in range(0, samples, SAMPLES):
        s = tl.zeros((), tl.int64) + begin + tl.arange(0, SAMPLES)
        basis, branch = edge_tile(
            x, x_row, x_step, base, grid, s, feature, samples, features, count,
            DEGREE, 0, EXTRAPOLATION, TYPE, HAS_BASE, BASES,
        )  # fmt: skip
        phi = tl.dot(basis, w, input_precision=PRECISION, out_dtype=TYPE) + branch[:, None] * by[None, :]
        here = (s < samples)[:, None]
        before = tl.zeros((), TYPE) + begin
        number = tl.zeros((), TYPE) + tl.minimum(SAMPLES, samples - begin)
        size += tl.sum(tl.where(here, tl.abs(phi), 0), 0)
        own = tl.sum(tl.where(here, phi, 0), 0) / number
        off = tl.where(here, phi - own[None, :], 0)
        apart = own - center
        center += apart * (number / (before + number))
        deviation += tl.sum(off * off, 0) + apart * apart * (before * number / (before + number))
    at = o * features + feature
    n = tl.zeros((), TYPE) + samples
    tl.store(mean_abs + at, size / n, mask=o < out)
    tl.store(mean_square + at, deviation / n + center * center, mask=o < out)
    tl.store(variance + at, deviation / tl.maximum(n - 1, 1), mask=o < out)
    tl.store(mean + at, center, mask=o < out)


@triton.jit
def upstream(phi, grad_abs, grad_square, grad_variance, mean, at, real, samples, TYPE: tl.constexpr):
    """u [samples, outputs] of kan_edge_stats.py; at: where an output's edge is, [outputs]."""
    n = tl.zeros((), TYPE) + samples
    by_abs = tl.load(grad_abs + at, mask=real, other=0)[None, :] / n
    by_square = tl.load(grad_square + at, mask=real, other=0)[None, :] * 2 / n
    by_variance = tl.load(grad_variance + at, mask=real, other=0)[None, :] * 2 / tl.maximum(n - 1, 1)
    center = tl.load(mean + at, mask=real, other=0)[None, :]
    sign = tl.where(phi > 0, 1, tl.where(phi < 0, -1, 0)).to(TYPE)
    return by_abs * sign + by_square * phi + by_variance * (phi - center)


@triton.jit
def edge_weight_kernel(
    x, x_row, x_step, base, grid, weight, base_weight, grad_abs, grad_square, grad_variance, mean,
    grad_weight, grad_base, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    HAS_BASE: tl.constexpr, SAMPLES: tl.constexpr, BASES: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """dW [I * bases, O] and dW_base [O, I]: a program a feature and a tile of outputs."""
    tiles = tl.cdiv(out, OUT)
    block = tl.program_id(0).to(tl.int64)
    feature = block // tiles
    o = block % tiles * OUT + tl.arange(0, OUT)
    at = o * features + feature
    w, by = weight_tile(weight, base_weight, feature, o, features, out, bases, HAS_BASE, BASES)
    sum, base_sum = tl.zeros((BASES, OUT), TYPE), tl.zeros((OUT,), TYPE)
    for begin in range(0, samples, SAMPLES):
        s = tl.zeros((), tl.int64) + begin + tl.arange(0, SAMPLES)
        basis, branch = edge_tile(
            x, x_row, x_step, base, grid, s, feature, samples, features, count,
            DEGREE, 0, EXTRAPOLATION, TYPE, HAS_BASE, BASES,
        )  # fmt: skip
        phi = tl.dot(basis, w, input_precision=PRECISION, out_dtype=TYPE) + branch[:, None] * by[None, :]
        u = upstream(phi, grad_abs, grad_square, grad_variance, mean, at, o < out, samples, TYPE)
        sum = tl.dot(tl.trans(basis), u, sum, input_precision=PRECISION, out_dtype=TYPE)
        base_sum += tl.sum(branch[:, None] * u, 0)
    m = tl.arange(0, BASES)[:, None]
    here = (m < bases) & (o < out)[None, :]
    tl.store(grad_weight + (feature * bases + m) * out + o[None, :], sum, mask=here)
    if HAS_BASE:
        tl.store(grad_base + at, base_sum, mask=o < out)


@triton.jit
def edge_input_kernel(
    x, x_row, x_step, base, base_slope, grid, weight, base_weight, grad_abs, grad_square, grad_variance, mean,
    grad_x, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    HAS_BASE: tl.constexpr, SAMPLES: tl.constexpr, BASES: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """dx [N, I]: a program a tile of samples and a feature, which walks the outputs."""
    block = tl.program_id(0).to(tl.int64)
    feature = block % features
    s = block // features * SAMPLES + tl.arange(0, SAMPLES)
    basis, branch = edge_tile(
        x, x_row, x_step, base, grid, s, feature, samples, features, count,
        DEGREE, 0, EXTRAPOLATION, TYPE, HAS_BASE, BASES,
    )  # fmt: skip
    rise, branch_rise = edge_tile(
        x, x_row, x_step, base_slope, grid, s, feature, samples, features, count,
        DEGREE, 1, EXTRAPOLATION, TYPE, HAS_BASE, BASES,
    )  # fmt: skip
    sum = tl.zeros((SAMPLES,), TYPE)
    for begin in range(0, out, OUT):
        o = tl.zeros((), tl.int64) + begin + tl.arange(0, OUT)
        at = o * features + feature
        w, by = weight_tile(weight, base_weight, feature, o, features, out, bases, HAS_BASE, BASES)
        phi = tl.dot(basis, w, input_precision=PRECISION, out_dtype=TYPE) + branch[:, None] * by[None, :]
        u = upstream(phi, grad_abs, grad_square, grad_variance, mean, at, o < out, samples, TYPE)
        slope = (
            tl.dot(rise, w, input_precision=PRECISION, out_dtype=TYPE) + branch_rise[:, None] * by[None, :]
        )
        sum += tl.sum(u * slope, 1)
    tl.store(grad_x + s * features + feature, sum, mask=s < samples)
