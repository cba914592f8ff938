"""The local plan of a KAN layer (see kan.py): a sample gathers the rows of weights that its point touches."""

import triton
import triton.language as tl

from .bspline import bases_at, span_of


@triton.jit
def linear_local_kernel(
    x, x_row, x_step, grid, weight, y, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr,
    SAMPLES: tl.constexpr, OUT: tl.constexpr, KNOTS: tl.constexpr,
):  # fmt: skip
    """y [N, O]: each sample gathers the rows of its span."""
    tiles = tl.cdiv(out, OUT)
    block = tl.program_id(0).to(tl.int64)
    s = block // tiles * SAMPLES + tl.arange(0, SAMPLES)
    o = block % tiles * OUT + tl.arange(0, OUT)
    sum = tl.zeros((SAMPLES, OUT), TYPE)
    for i in range(0, features):
        feature = tl.zeros((), tl.int64) + i
        point = tl.load(x + s * x_row + feature * x_step, mask=s < samples, other=0).to(TYPE)
        knots = grid + feature * count
        start = span_of(point, knots, count, DEGREE, EXTRAPOLATION, KNOTS)
        for r in tl.static_range(DEGREE + 1):
            m = start + r
            value = bases_at(point, knots, m, count, DEGREE, 0, EXTRAPOLATION)
            value = tl.where(point == point, value, point)
            row = feature * bases + tl.minimum(tl.maximum(m, 0), bases - 1)
            w = tl.load(weight + row[:, None] * out + o[None, :], mask=(o < out)[None, :], other=0)
            sum += value[:, None] * w
    tl.store(y + s[:, None] * out + o[None, :], sum, mask=(s < samples)[:, None] & (o < out)[None, :])


@triton.jit
def input_local_kernel(
    x, x_row, x_step, grid, weight, grad_y, grad_x, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr,
    SAMPLES: tl.constexpr, OUT: tl.constexpr, KNOTS: tl.constexpr,
):  # fmt: skip
    """The splines' part of dx: a program a tile of samples and a feature."""
    block = tl.program_id(0).to(tl.int64)
    s = block // features * SAMPLES + tl.arange(0, SAMPLES)
    feature = block % features
    point = tl.load(x + s * x_row + feature * x_step, mask=s < samples, other=0).to(TYPE)
    knots = grid + feature * count
    start = span_of(point, knots, count, DEGREE, EXTRAPOLATION, KNOTS)
    sum = tl.zeros((SAMPLES,), TYPE)
    for r in tl.static_range(DEGREE + 1):
        m = start + r
        slope = bases_at(point, knots, m, count, DEGREE, 1, EXTRAPOLATION)
        slope = tl.where(point == point, slope, point)
        row = feature * bases + tl.minimum(tl.maximum(m, 0), bases - 1)
        for begin in range(0, out, OUT):
            o = begin + tl.arange(0, OUT)
            here = (s < samples)[:, None] & (o < out)[None, :]
            g = tl.load(grad_y + s[:, None] * out + o[None, :], mask=here, other=0)
            w = tl.load(weight + row[:, None] * out + o[None, :], mask=here, other=0)
            sum += slope * tl.sum(g * w, 1)
    tl.store(grad_x + s * features + feature, sum, mask=s < samples)
