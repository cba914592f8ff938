"""A Kolmogorov-Arnold layer: every edge a spline plus a base function (Liu et al. 2024, eq. 2.10), summed
over inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast import backend
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._kan import Layer, check_layer, layer_grads, layer_rows, weights
from kdfast.ops.bspline_basis import bspline_basis_reference


def kan_linear_reference(
    x: Tensor,
    coef: Tensor,
    *,
    grid: Tensor,
    degree: int = 3,
    scale: Tensor | None = None,
    base_weight: Tensor | None = None,
    base: str = "silu",
    extrapolation: str = "zero",
) -> Tensor:
    """The definition: sum_i base_weight silu(x_i) + scale sum_m coef B_m(x_i)."""
    points = x.to(compute_type(x))
    basis = bspline_basis_reference(points, grid, degree, extrapolation=extrapolation)
    y = torch.einsum("...im,oim->...o", basis, weights(coef, scale, points.dtype))
    if base_weight is not None:
        y = y + F.silu(points) @ base_weight.to(points.dtype).T
    return y.to(x.dtype)


def kan_linear(
    x: Tensor,
    coef: Tensor,
    *,
    grid: Tensor,
    degree: int = 3,
    scale: Tensor | None = None,
    base_weight: Tensor | None = None,
    base: str = "silu",
    extrapolation: str = "zero",
) -> Tensor:
    """y_o = sum_i ( base_weight_oi silu(x_i) + scale_oi sum_m coef_oim B_m(x_i) ), in one op.

    The basis is never stored: between forward and backward only the arguments are kept. Gradients to x, coef,
    scale and base_weight; second derivatives (PDE losses) are right too, and take the dense basis.

    Args:
        x: points [..., I] of any strides; float64, float32, bfloat16 or float16.
        coef: spline coefficients [O, I, n - k - 1].
        grid: knots [I, n] or [n], ascending, repeats allowed; a constant. n >= 2k + 2.
        degree: k, 0 to 5.
        scale: a factor of each edge's spline [O, I], or None.
        base_weight: a factor of each edge's base function [O, I], or None: no base function.
        base: the base function, "silu".
        extrapolation: what x outside [g_k, g_{n-1-k}] gives the spline: "zero" (the definition: it falls to 0
            at the ends of the knot vector, as in efficient-kan), "linear" (goes on along its tangent) or
            "clamp" (keeps its value).

    Returns:
        [..., O] in x's dtype, computed in float32 (float64 for float64 x).

    Raises TypeError, ValueError or RuntimeError for bad input; on the CPU ValueError also for a grid that is
    not sorted, not finite or constant.
    """
    layer = check_layer(x, coef, grid, degree, scale, base_weight, base, extrapolation)
    y = linear_rows(layer, backend.of(x, "kan_linear"))
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], coef.size(0))


def linear_rows(layer: Layer, kernels: str) -> Tensor:
    """y [N, O] of a checked layer."""
    with torch.autocast(layer.x.device.type, enabled=False):
        if kernels == "reference":
            return layer_rows(layer, kernels)
        return _KanLinear.apply(*layer, kernels)


class _KanLinear(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, coef, grid, degree, scale, base_weight, extrapolation, kernels):
        return backend.ops(kernels).kan_linear(x, coef, grid, degree, scale, base_weight, extrapolation)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, coef, grid, degree, scale, base_weight, extrapolation, kernels = inputs
        ctx.save_for_backward(x, coef, grid, scale, base_weight)
        ctx.options = degree, extrapolation, kernels

    @staticmethod
    def backward(ctx, grad):
        x, coef, grid, scale, base_weight = ctx.saved_tensors
        degree, extrapolation, kernels = ctx.options
        need = ctx.needs_input_grad
        wanted = int(need[0]) + 2 * int(need[1] or need[4] or need[5])
        run = _KanLinearBackward.forward if _is_plain_step() else _KanLinearBackward.apply
        grads = run(grad, x, coef, grid, degree, scale, base_weight, extrapolation, wanted, kernels)
        grad_x, grad_coef, grad_scale, grad_base = grads
        return (
            grad_x if need[0] else None,
            grad_coef if need[1] else None,
            None,
            None,
            grad_scale if need[4] else None,
            grad_base if need[5] else None,
            None,
            None,
        )


def _is_plain_step() -> bool:
    """Whether nothing asks for second derivatives, and no transform is about: then the op alone will do."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return torch._C._functorch.maybe_current_level() is None


class _KanLinearBackward(Function):
    """The gradients in one op; their own gradients through the dense expressions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad, x, coef, grid, degree, scale, base_weight, extrapolation, wanted, kernels):
        op = backend.ops(kernels).kan_linear_backward
        return op(grad, x, coef, grid, degree, scale, base_weight, extrapolation, wanted)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, x, coef, grid, degree, scale, base_weight, extrapolation, wanted, kernels = inputs
        ctx.save_for_backward(grad, x, coef, grid, scale, base_weight)
        ctx.options = degree, extrapolation, wanted, kernels

    @staticmethod
    def backward(ctx, *upstream):
        grad, x, coef, grid, scale, base_weight = ctx.saved_tensors
        degree, extrapolation, wanted, kernels = ctx.options
        inputs = [t for t in (grad, x, coef, scale, base_weight) if t is not None]

        def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
            grad, x, coef, *edges = tensors
            scale_ = edges.pop(0) if scale is not None else None
            base_ = edges.pop(0) if base_weight is not None else None
            layer = Layer(x, coef, grid, degree, scale_, base_, extrapolation)
            return tuple(g for g in layer_grads(grad, layer, wanted, kernels) if g is not None)

        given = layer_grad_mask(wanted, scale is not None, base_weight is not None)
        with torch.autocast(x.device.type, enabled=False):
            _, pull = torch.func.vjp(gradients, *inputs)
            pulled = list(pull(tuple(u for u, has in zip(upstream, given, strict=True) if has)))
        of_grad, of_x, of_coef = pulled[:3]
        edges = pulled[3:]
        of_scale = edges.pop(0) if scale is not None else None
        of_base = edges.pop(0) if base_weight is not None else None
        return of_grad, of_x, of_coef, None, None, of_scale, of_base, None, None, None


def layer_grad_mask(wanted: int, has_scale: bool, has_base: bool) -> tuple[bool, bool, bool, bool]:
    """Which of the gradients of x, coef, scale and base_weight exist."""
    weights_wanted = bool(wanted & 2)
    return bool(wanted & 1), weights_wanted, weights_wanted and has_scale, weights_wanted and has_base


# ---- Fake kernels


def _fake(x, coef, grid, degree, scale, base_weight, extrapolation):
    return x.new_empty((x.size(0), coef.size(0)))


def fake_grads(x, coef, scale, base_weight, wanted):
    """Gradients of x, coef, scale, base_weight; [0] for those that are not wanted."""
    none = x.new_empty(0, dtype=compute_type(x))
    given = layer_grad_mask(wanted, scale is not None, base_weight is not None)
    tensors = (x, coef, scale, base_weight)
    return tuple(t.new_empty(t.shape) if has else none.clone() for t, has in zip(tensors, given, strict=True))


def _fake_backward(grad, x, coef, grid, degree, scale, base_weight, extrapolation, wanted):
    return fake_grads(x, coef, scale, base_weight, wanted)


register_fake("kan_linear", _fake)
register_fake("kan_linear_backward", _fake_backward)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    keywords = {"grid": torch.linspace(-2, 2, 9), "scale": make(4, 3), "base_weight": make(4, 3)}
    return [make(6, 3), make(4, 3, 5)], keywords
