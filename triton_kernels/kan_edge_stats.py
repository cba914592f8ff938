"""Statistics of every edge of a KAN layer over the samples, without a tensor of samples by outputs by inputs.

A program owns a feature and a tile of outputs and walks the samples: phi [samples, outputs] of a tile is one
tl.dot of the basis with the feature's weights. Means and squared deviations of tiles are merged (Chan, Golub,
LeVeque), so that the variance does not cancel. With n samples the upstream gradients become, on an edge,

    u = (grad_abs sign(phi) + 2 grad_square phi) / n + 2 grad_variance (phi - mean) / (n - 1)
    dx = sum_o u phi',  dW = sum_s u B,  dW_base = sum_s u silu(x)
"""

import torch
import triton
from torch import Tensor

from .common import NUMBER, compute_type
from .kan import LAYER, Layer, fake_grads, layer_of, precision, silu, silu_slope, unpacked
from .kan_edge_kernels import edge_input_kernel, edge_stats_kernel, edge_weight_kernel
from .launch import launch
from .library import define

SAMPLES, OUT = 32, 32  # of a tile


def _constants(layer: Layer) -> dict:
    return {
        "DEGREE": layer.degree,
        "EXTRAPOLATION": layer.extrapolation,
        "TYPE": NUMBER[layer.compute],
        "PRECISION": precision(),
        "HAS_BASE": layer.base_weight is not None,
        "SAMPLES": SAMPLES,
        "BASES": max(16, triton.next_power_of_2(layer.bases)),
        "OUT": OUT,
        "num_warps": 4,
    }


def _layer_arguments(layer: Layer, *branches: Tensor) -> tuple:
    """x, the base function of it, knots and weights; the base weights stand in for what is not there."""
    base = layer.packed if layer.base_weight is None else layer.base_weight.contiguous()
    return layer.x, *layer.x.stride(), *branches, layer.knots, layer.packed, base


def _sizes(layer: Layer) -> tuple[int, ...]:
    return *layer.x.shape, layer.out, layer.knots.size(1), layer.bases


def _tiles(layer: Layer) -> int:
    return layer.x.size(1) * triton.cdiv(layer.out, OUT)


def kan_edge_stats(
    x: Tensor,
    coef: Tensor,
    grid: Tensor,
    degree: int,
    scale: Tensor | None,
    base_weight: Tensor | None,
    extrapolation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean of |phi|, mean of phi^2, variance (n - 1) and mean of every edge: [O, I] in the compute type."""
    layer = layer_of(x, coef, grid, degree, scale, base_weight, extrapolation)
    stats = tuple(x.new_zeros(coef.shape[:2], dtype=layer.compute) for _ in range(4))
    arguments = *_layer_arguments(layer, silu(layer)), *stats, *_sizes(layer)
    launch(edge_stats_kernel, _tiles(layer) if x.size(0) else 0, arguments, **_constants(layer))
    return stats


def kan_edge_stats_backward(
    grad_abs: Tensor,
    grad_square: Tensor,
    grad_variance: Tensor,
    mean: Tensor,
    x: Tensor,
    coef: Tensor,
    grid: Tensor,
    degree: int,
    scale: Tensor | None,
    base_weight: Tensor | None,
    extrapolation: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, coef, scale and base_weight, each in its dtype; [0] for what is not there."""
    layer = layer_of(x, coef, grid, degree, scale, base_weight, extrapolation)
    given = tuple(g.to(layer.compute).contiguous() for g in (grad_abs, grad_square, grad_variance, mean))
    samples, features = x.shape
    value, slope = silu(layer), silu_slope(layer)
    grad_weight = torch.zeros_like(layer.packed)
    grad_base = x.new_zeros(coef.shape[:2], dtype=layer.compute)
    grad_x = x.new_empty((samples, features), dtype=layer.compute)
    constants = _constants(layer)
    arguments = *_layer_arguments(layer, value), *given, grad_weight, grad_base, *_sizes(layer)
    launch(edge_weight_kernel, _tiles(layer) if samples else 0, arguments, **constants)
    arguments = *_layer_arguments(layer, value, slope), *given, grad_x, *_sizes(layer)
    launch(edge_input_kernel, triton.cdiv(samples, SAMPLES) * features, arguments, **constants)
    of_coef, of_scale = unpacked(grad_weight, coef, scale)
    none = [x.new_empty(0, dtype=layer.compute) for _ in range(2)]
    of_base = none[1] if base_weight is None else grad_base.to(base_weight.dtype)
    return grad_x.to(x.dtype), of_coef, none[0] if of_scale is None else of_scale, of_base


def _fake(x, coef, *_):
    compute = compute_type(x)
    return tuple(x.new_empty(coef.shape[:2], dtype=compute) for _ in range(4))


def _fake_backward(up, square, variance, mean, x, coef, grid, degree, scale, base_weight, extrapolation):
    return fake_grads(x, coef, scale, base_weight, 3)


define(f"kan_edge_stats({LAYER}) -> (Tensor, Tensor, Tensor, Tensor)", kan_edge_stats, _fake)
define(
    "kan_edge_stats_backward(Tensor grad_abs, Tensor grad_square, Tensor grad_variance, Tensor mean, "
    f"{LAYER}) -> (Tensor, Tensor, Tensor, Tensor)",
    kan_edge_stats_backward,
    _fake_backward,
)
