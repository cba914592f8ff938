"""The dense plan of a KAN layer (see kan.py): a tile of the basis, made on the chip, times packed weights."""

import triton
import triton.language as tl

from .bspline import bases_at


@triton.jit
def dense_tile(
    x, x_row, x_step, grid, s, first, samples, features, count, bases,
    DEGREE: tl.constexpr, ORDER: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr,
    FEATURES: tl.constexpr, BASES: tl.constexpr,
):  # fmt: skip
    """B or B' [samples s, columns] of the features from `first` on; rows of W; whether columns are real."""
    column = tl.arange(0, FEATURES * BASES)
    feature, m = first + column // BASES, column % BASES
    real = (feature < features) & (m < bases)
    feature = tl.where(real, feature, 0)
    here = (s < samples)[:, None] & real[None, :]
    point = tl.load(x + s[:, None] * x_row + feature[None, :] * x_step, mask=here, other=0).to(TYPE)
    knots = grid + feature[None, :].to(tl.int64) * count
    value = bases_at(point, knots, m[None, :], count, DEGREE, ORDER, EXTRAPOLATION)
    return tl.where(here, value, 0), feature.to(tl.int64) * bases + m, real


@triton.jit
def linear_dense_kernel(
    x, x_row, x_step, grid, weight, y, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    SAMPLES: tl.constexpr, FEATURES: tl.constexpr, BASES: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """y [N, O]: a program a tile of samples and outputs."""
    tiles = tl.cdiv(out, OUT)
    block = tl.program_id(0).to(tl.int64)
    s = block // tiles * SAMPLES + tl.arange(0, SAMPLES)
    o = block % tiles * OUT + tl.arange(0, OUT)
    sum = tl.zeros((SAMPLES, OUT), TYPE)
    for first in range(0, features, FEATURES):
        basis, row, real = dense_tile(
            x, x_row, x_step, grid, s, first, samples, features, count, bases,
            DEGREE, 0, EXTRAPOLATION, TYPE, FEATURES, BASES,
        )  # fmt: skip
        w = tl.load(
            weight + row[:, None] * out + o[None, :], mask=real[:, None] & (o < out)[None, :], other=0
        )
        sum = tl.dot(basis, w, sum, input_precision=PRECISION, out_dtype=TYPE)
    tl.store(y + s[:, None] * out + o[None, :], sum, mask=(s < samples)[:, None] & (o < out)[None, :])


@triton.jit
def input_dense_kernel(
    x, x_row, x_step, grid, weight, grad_y, grad_x, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    SAMPLES: tl.constexpr, FEATURES: tl.constexpr, BASES: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """The splines' part of dx: a program a tile of samples and a group of features."""
    groups = tl.cdiv(features, FEATURES)
    block = tl.program_id(0).to(tl.int64)
    s = block // groups * SAMPLES + tl.arange(0, SAMPLES)
    first = block % groups * FEATURES
    slope, row, real = dense_tile(
        x, x_row, x_step, grid, s, first, samples, features, count, bases,
        DEGREE, 1, EXTRAPOLATION, TYPE, FEATURES, BASES,
    )  # fmt: skip
    sum = tl.zeros((SAMPLES, FEATURES * BASES), TYPE)
    for begin in range(0, out, OUT):
        o = begin + tl.arange(0, OUT)
        g = tl.load(
            grad_y + s[:, None] * out + o[None, :], mask=(s < samples)[:, None] & (o < out)[None, :], other=0
        )
        w = tl.load(
            weight + row[None, :] * out + o[:, None], mask=real[None, :] & (o < out)[:, None], other=0
        )
        sum = tl.dot(g, w, sum, input_precision=PRECISION, out_dtype=TYPE)
    by_feature = tl.sum(tl.reshape(sum * slope, (SAMPLES, FEATURES, BASES)), 2)
    feature = first + tl.arange(0, FEATURES)
    here = (s < samples)[:, None] & (feature < features)[None, :]
    tl.store(grad_x + s[:, None] * features + feature[None, :], by_feature, mask=here)


@triton.jit
def weight_kernel(
    x, x_row, x_step, grid, grad_y, part, samples, features, out, count, bases, split,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr, PRECISION: tl.constexpr,
    SAMPLES: tl.constexpr, FEATURES: tl.constexpr, BASES: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """part [splits, I * bases, O]: a program a group of features, a tile of outputs and a split."""
    groups, tiles = tl.cdiv(features, FEATURES), tl.cdiv(out, OUT)
    block = tl.program_id(0).to(tl.int64)
    number = block // (groups * tiles)
    first = block // tiles % groups * FEATURES
    o = block % tiles * OUT + tl.arange(0, OUT)
    sum = tl.zeros((FEATURES * BASES, OUT), TYPE)
    end = tl.minimum(number * split + split, samples)
    row = tl.arange(0, FEATURES * BASES).to(tl.int64)
    real = row < 0
    for begin in range(number * split, end, SAMPLES):
        s = begin + tl.arange(0, SAMPLES)
        basis, row, real = dense_tile(
            x, x_row, x_step, grid, s, first, end, features, count, bases,
            DEGREE, 0, EXTRAPOLATION, TYPE, FEATURES, BASES,
        )  # fmt: skip
        g = tl.load(
            grad_y + s[:, None] * out + o[None, :], mask=(s < end)[:, None] & (o < out)[None, :], other=0
        )
        sum = tl.dot(tl.trans(basis), g, sum, input_precision=PRECISION, out_dtype=TYPE)
    part += number * features * bases * out
    tl.store(part + row[:, None] * out + o[None, :], sum, mask=real[:, None] & (o < out)[None, :])
