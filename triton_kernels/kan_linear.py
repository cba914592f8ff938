"""A KAN layer by one of two plans (see kan.py), and its gradients without atomics.

y = B W + silu(x) W_base^T        B [N, I * bases] the basis, never in memory, W the packed weights
dx = sum over bases of (dy W^T) * B'   + silu'(x) (dy W_base)
dW = B^T dy, in parts over splits of the samples that are added up in order
"""

import triton
from torch import Tensor

from .common import NUMBER
from .kan import COLUMNS, LAYER, Layer, fake_grads, layer_of, plan, precision, silu, silu_slope, unpacked
from .kan_dense import input_dense_kernel, linear_dense_kernel, weight_kernel
from .kan_local import input_local_kernel, linear_local_kernel
from .launch import launch
from .library import define

SAMPLES, OUT = 32, 64  # of a tile
SPLIT = 4096  # samples of a part of the weights' gradient
PARTS = 64  # at most


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
