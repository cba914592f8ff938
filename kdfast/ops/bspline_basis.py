"""The B-spline basis: every basis function of a knot vector at every point."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops._bspline import EXTRAPOLATIONS, basis_definition, check_degree, check_knots, check_points
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function


def bspline_basis_reference(
    x: Tensor, grid: Tensor, degree: int, *, derivative: int = 0, extrapolation: str = "zero"
) -> Tensor:
    """The definition: Cox and de Boor's recursion with 0/0 = 0, in float32 (float64 for float64 x)."""
    compute = compute_type(x)
    knots = grid.detach().to(compute).expand(x.size(-1), grid.size(-1))
    points = x.to(compute).reshape(-1, x.size(-1))
    value = basis_definition(points, knots, degree, derivative, EXTRAPOLATIONS[extrapolation])
    return value.to(x.dtype).reshape(*x.shape, value.size(-1))


def bspline_basis(x: Tensor, grid: Tensor, degree: int) -> Tensor:
    """B_0(x) .. B_{n-k-2}(x) of degree k on n knots, as efficient-kan's b_splines and SciPy's BSpline have
    them.

    Spans are half-open; repeated knots are right (0/0 = 0). Inside [g_k, g_{n-1-k}) the bases sum to 1;
    beyond it they fall to 0 at the ends of the knot vector, and are 0 outside. Differentiable with respect to
    x to any order; at a knot the derivative from the right.

    Args:
        x: points [..., I] of any strides; float64, float32, bfloat16 or float16.
        grid: knots, ascending, repeats allowed: [I, n] or [n], shared by all features; a constant. n >= 2k +
        2.
        degree: k, 0 to 5.

    Returns:
        [..., I, n - k - 1] in x's dtype, computed in float32 (float64 for float64 x).

    Raises TypeError, ValueError or RuntimeError for bad input; on the CPU ValueError also for a grid that is
    not sorted, not finite or constant.
    """
    degree = check_degree(degree)
    grid = check_points(x, grid, degree)
    value = basis_rows(x.reshape(-1, x.size(-1)), grid, degree, 0, 0, backend.of(x, "bspline_basis"))
    return value.reshape(*x.shape, value.size(-1))


def basis_rows(
    x: Tensor, grid: Tensor, degree: int, derivative: int, extrapolation: int, kernels: str
) -> Tensor:
    """x [N, I], grid [I, n], codes as the op takes them -> [N, I, n - k - 1], on the backend `kernels`."""
    if kernels == "reference":
        if x.device.type == "cpu" and not torch.compiler.is_compiling():  # a graph has no values to check
            check_knots(grid, degree)
        compute = compute_type(x)
        return basis_definition(x.to(compute), grid.to(compute), degree, derivative, extrapolation).to(
            x.dtype
        )
    return _Basis.apply(x, grid, degree, derivative, extrapolation, kernels)


class _Basis(Function):
    """The op; its derivative is the op again, one order higher, so that every order is right."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, grid, degree, derivative, extrapolation, kernels):
        return backend.ops(kernels).bspline_basis(x, grid, degree, derivative, extrapolation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, grid, *ctx.options = inputs
        ctx.save_for_backward(x, grid)

    @staticmethod
    def backward(ctx, grad):
        x, grid = ctx.saved_tensors
        degree, derivative, extrapolation, kernels = ctx.options
        slope = _Basis.apply(x, grid, degree, derivative + 1, extrapolation, kernels)
        return (grad * slope).sum(-1), None, None, None, None, None


def _fake(x, grid, degree, derivative, extrapolation):
    return x.new_empty((x.size(0), x.size(1), grid.size(1) - degree - 1))


register_fake("bspline_basis", _fake)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.randn(5, 3, generator=generator), torch.linspace(-2, 2, 9), 3], {}
