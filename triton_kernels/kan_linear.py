"""A KAN layer by one of two plans (see kan.py), and its gradients without atomics.

y = B W + silu(x) W_base^T        B [N, I * bases] the basis, never in memory, W the packed weights
dx = sum over bases of (dy W^T) * B'   + silu'(x) (dy W_base)
dW = B^T dy, in parts over splits of the samples that are added up in order
"""

import triton
import triton.language as tl
from torch import Tensor

from .bspline import bases_at, span_of
from .common import NUMBER
from .kan import COLUMNS, LAYER, Layer, fake_grads, layer_of, plan, precision, silu, silu_slope, unpacked
from .launch import launch
from .library import define

SAMPLES, OUT = 32, 64  # of a tile
SPLIT = 4096  # samples of a part of the weights' gradient
PARTS = 64  # at most


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
def input_local_kernel(
    x, x_row, x_step, grid, weight, grad_y, grad_x, samples, features, out, count, bases,
    DEGREE: tl.constexpr, EXTRAPOLATION: tl.constexpr, TYPE: tl.constexpr,
    SAMPLES: tl.constexpr, OUT: tl.constexpr, KNOTS: tl.constexpr,
):  # fmt: skip
    """The same by gathering: a program a tile of samples and a feature."""
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


def _constants(layer: Layer, dense: bool) -> dict:
    """A plan's constants; tiles no larger than they need be."""
    constants = {
        "DEGREE": layer.degree,
        "EXTRAPOLATION": layer.extrapolation,
        "TYPE": NUMBER[layer.compute],
        "SAMPLES": SAMPLES,
        "OUT": max(16, min(OUT, triton.next_power_of_2(layer.out))),
        "num_warps": 8,
    }
    if not dense:
        return constants | {"KNOTS": triton.next_power_of_2(layer.knots.size(1))}
    bases = triton.next_power_of_2(layer.bases)
    return constants | {
        "PRECISION": precision(),
        "FEATURES": max(1, COLUMNS // bases),
        "BASES": max(bases, 1),
    }


def _sizes(layer: Layer) -> tuple[int, ...]:
    return *layer.x.shape, layer.out, layer.knots.size(1), layer.bases


def _programs(layer: Layer, constants: dict) -> int:
    samples = triton.cdiv(layer.x.size(0), constants["SAMPLES"])
    return samples * triton.cdiv(layer.out, constants["OUT"])


def forward(layer: Layer, kind: str) -> Tensor:
    """y [N, O] in the compute type, by the plan `kind`."""
    y = layer.x.new_empty((layer.x.size(0), layer.out), dtype=layer.compute)
    constants = _constants(layer, kind == "dense")
    arguments = layer.x, *layer.x.stride(), layer.knots, layer.packed, y, *_sizes(layer)
    kernel = linear_dense_kernel if kind == "dense" else linear_local_kernel
    launch(kernel, _programs(layer, constants), arguments, **constants)
    return y if layer.base_weight is None else y + silu(layer) @ layer.base_weight.T


def input_grad(layer: Layer, grad: Tensor, kind: str) -> Tensor:
    """dx [N, I] in the compute type; grad [N, O] contiguous in it."""
    samples, features = layer.x.shape
    grad_x = layer.x.new_empty((samples, features), dtype=layer.compute)
    constants = _constants(layer, kind == "dense")
    arguments = layer.x, *layer.x.stride(), layer.knots, layer.packed, grad, grad_x, *_sizes(layer)
    groups = triton.cdiv(features, constants["FEATURES"]) if kind == "dense" else features
    kernel = input_dense_kernel if kind == "dense" else input_local_kernel
    launch(kernel, triton.cdiv(samples, SAMPLES) * groups, arguments, **constants)
    if layer.base_weight is not None:
        grad_x += silu_slope(layer) * (grad @ layer.base_weight)
    return grad_x


def weight_grad(layer: Layer, grad: Tensor) -> Tensor:
    """dW [I * bases, O] in the compute type: parts, then their sum in order."""
    samples, features = layer.x.shape
    constants = _constants(layer, True)
    split = max(SPLIT, triton.cdiv(triton.cdiv(samples, PARTS), SAMPLES) * SAMPLES)
    parts = max(1, triton.cdiv(samples, split))
    part = layer.x.new_zeros((parts, *layer.packed.shape), dtype=layer.compute)
    groups, tiles = triton.cdiv(features, constants["FEATURES"]), triton.cdiv(layer.out, constants["OUT"])
    arguments = layer.x, *layer.x.stride(), layer.knots, grad, part, *_sizes(layer), split
    launch(weight_kernel, groups * tiles * parts if samples else 0, arguments, **constants)
    return part.sum(0)


def kan_linear(
    x: Tensor,
    coef: Tensor,
    grid: Tensor,
    degree: int,
    scale: Tensor | None,
    base_weight: Tensor | None,
    extrapolation: int,
) -> Tensor:
    """y [N, O] in x's dtype."""
    layer = layer_of(x, coef, grid, degree, scale, base_weight, extrapolation)
    return forward(layer, plan(layer)).to(x.dtype)


def kan_linear_backward(
    grad: Tensor,
    x: Tensor,
    coef: Tensor,
    grid: Tensor,
    degree: int,
    scale: Tensor | None,
    base_weight: Tensor | None,
    extrapolation: int,
    wanted: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (bit 0 of wanted), coef, scale and base_weight (bit 1), each in its dtype; else [0]."""
    layer = layer_of(x, coef, grid, degree, scale, base_weight, extrapolation)
    up = grad.to(layer.compute).contiguous()
    none = [x.new_empty(0, dtype=layer.compute) for _ in range(4)]
    grad_x, grad_coef, grad_scale, grad_base = none
    if wanted & 1:
        grad_x = input_grad(layer, up, plan(layer)).to(x.dtype)
    if wanted & 2:
        grad_coef, of_scale = unpacked(weight_grad(layer, up), coef, scale)
        grad_scale = grad_scale if of_scale is None else of_scale
        if base_weight is not None:
            grad_base = (up.T @ silu(layer)).to(base_weight.dtype)
    return grad_x, grad_coef, grad_scale, grad_base


define(f"kan_linear({LAYER}) -> Tensor", kan_linear, lambda x, coef, *_: x.new_empty(x.size(0), coef.size(0)))
define(
    f"kan_linear_backward(Tensor grad, {LAYER}, int wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    kan_linear_backward,
    lambda grad, x, coef, grid, degree, scale, base_weight, extrapolation, wanted: fake_grads(
        x, coef, scale, base_weight, wanted
    ),
)
