"""Statistics of every edge's output over the samples, without a tensor of samples by outputs by inputs.

They are what activation-based KAN regularisers and feature scores need: pykan's exact one is sqrt(variance)
over the input's spread, KAN-L1 the mean of |phi|.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast import backend
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._kan import Layer, check_layer, weights
from kdfast.ops.bspline_basis import basis_rows, bspline_basis_reference
from kdfast.ops.kan_linear import fake_grads


def kan_edge_stats_reference(
    x: Tensor,
    coef: Tensor,
    *,
    grid: Tensor,
    degree: int = 3,
    scale: Tensor | None = None,
    base_weight: Tensor | None = None,
    base: str = "silu",
    extrapolation: str = "zero",
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, with phi [B, O, I] in full."""
    points = x.to(compute_type(x)).reshape(-1, x.size(-1))
    basis = bspline_basis_reference(points, grid, degree, extrapolation=extrapolation)
    return _statistics(points, basis, coef, scale, base_weight)


def _statistics(
    points: Tensor, basis: Tensor, coef: Tensor, scale: Tensor | None, base_weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    phi = torch.einsum("nim,oim->noi", basis, weights(coef, scale, points.dtype))
    if base_weight is not None:
        phi = phi + F.silu(points).unsqueeze(1) * base_weight.to(points.dtype)
    if phi.size(0) == 0:
        nothing = phi.sum(0)
        return nothing, nothing, nothing
    variance = phi.var(0) if phi.size(0) > 1 else (phi - phi).sum(0)
    return phi.abs().mean(0), phi.square().mean(0), variance


def kan_edge_stats(
    x: Tensor,
    coef: Tensor,
    *,
    grid: Tensor,
    degree: int = 3,
    scale: Tensor | None = None,
    base_weight: Tensor | None = None,
    base: str = "silu",
    extrapolation: str = "zero",
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of |phi|, mean of phi^2 and variance of phi over the samples, for every edge (o, i) of a KAN
    layer.

    phi_oi(x) = base_weight_oi silu(x_i) + scale_oi sum_m coef_oim B_m(x_i); arguments as in `kan_linear`, all
    leading dimensions of x being samples. Differentiable with respect to x, coef, scale and base_weight,
    once; memory grows with samples times inputs and with outputs times inputs, never with their product.

    Returns:
        Three tensors [O, I], float32 (float64 for float64 x). The variance is unbiased (n - 1), 0 for one
        sample; without samples all are 0.

    Raises TypeError, ValueError or RuntimeError for bad input, as `kan_linear` does.
    """
    layer = check_layer(x, coef, grid, degree, scale, base_weight, base, extrapolation)
    kernels = backend.of(x, "kan_edge_stats")
    with torch.autocast(x.device.type, enabled=False):
        if kernels == "reference":
            points = layer.x.to(compute_type(x))
            basis = basis_rows(points, layer.grid, layer.degree, 0, layer.extrapolation, kernels)
            return _statistics(points, basis, layer.coef, scale, base_weight)
        return _EdgeStats.apply(*layer, kernels)[:3]


class _EdgeStats(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, coef, grid, degree, scale, base_weight, extrapolation, kernels):
        return backend.ops(kernels).kan_edge_stats(x, coef, grid, degree, scale, base_weight, extrapolation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, coef, grid, degree, scale, base_weight, extrapolation, kernels = inputs
        mean = output[3]
        ctx.mark_non_differentiable(mean)
        ctx.save_for_backward(x, coef, grid, scale, base_weight, mean)
        ctx.options = degree, extrapolation, kernels

    @staticmethod
    def backward(ctx, grad_abs, grad_square, grad_variance, _):
        x, coef, grid, scale, base_weight, mean = ctx.saved_tensors
        degree, extrapolation, kernels = ctx.options
        layer = Layer(x, coef, grid, degree, scale, base_weight, extrapolation)
        grads = _EdgeStatsBackward.apply(grad_abs, grad_square, grad_variance, mean, *layer, kernels)
        grad_x, grad_coef, grad_scale, grad_base = grads
        given = (grad_scale if scale is not None else None, grad_base if base_weight is not None else None)
        return grad_x, grad_coef, None, None, *given, None, None


class _EdgeStatsBackward(Function):
    """The gradients; asked for their own, it says that there are none, where once_differentiable may keep
    silent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments):
        *tensors, kernels = arguments
        return backend.ops(kernels).kan_edge_stats_backward(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            "kan_edge_stats can be differentiated once: for second derivatives use kdfast.use('reference')"
        )


# ---- Fake kernels


def _fake(x, coef, grid, degree, scale, base_weight, extrapolation):
    return tuple(x.new_empty(coef.shape[:2], dtype=compute_type(x)) for _ in range(4))


def _fake_backward(
    grad_abs, grad_square, grad_variance, mean, x, coef, grid, degree, scale, base_weight, extrapolation
):
    return fake_grads(x, coef, scale, base_weight, wanted=3)


register_fake("kan_edge_stats", _fake)
register_fake("kan_edge_stats_backward", _fake_backward)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    keywords = {"grid": torch.linspace(-2, 2, 9), "scale": make(4, 3), "base_weight": make(4, 3)}
    return [make(6, 3), make(4, 3, 5)], keywords
