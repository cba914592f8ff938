"""What kan_linear and kan_edge_stats share in Python: checks, and the layer as plain differentiable
PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._bspline import check_degree, check_extrapolation, check_points
from kdfast.ops._definition import compute_type
from kdfast.ops.bspline_basis import basis_rows

BASES = ("silu",)


class Layer(NamedTuple):
    """Checked arguments: x [N, I], coef [O, I, bases], grid [I, knots], scale and base_weight [O, I] or
    None."""

    x: Tensor
    coef: Tensor
    grid: Tensor
    degree: int
    scale: Tensor | None
    base_weight: Tensor | None
    extrapolation: int


def check_layer(
    x: object,
    coef: object,
    grid: object,
    degree: object,
    scale: object,
    base_weight: object,
    base: object,
    extrapolation: object,
) -> Layer:
    """TypeError, ValueError or RuntimeError for what does not fit; x's leading dimensions are joined."""
    degree = check_degree(degree)
    knots = check_points(x, grid, degree)
    _check.floating("coef", coef)
    features, bases = x.size(-1), knots.size(1) - degree - 1
    if coef.dim() != 3 or coef.shape[1:] != (features, bases) or coef.size(0) == 0:
        raise ValueError(
            f"coef must be [out, {features}, {bases}] for {features} features and {knots.size(1)} knots "
            f"of degree {degree}, got shape {tuple(coef.shape)}"
        )
    _check.same_device("coef", coef, "x", x)
    for name, edges in (("scale", scale), ("base_weight", base_weight)):
        if edges is None:
            continue
        _check.floating(name, edges)
        if edges.shape != coef.shape[:2]:
            given = tuple(edges.shape)
            raise ValueError(f"{name} must be [out, features] {tuple(coef.shape[:2])}, got shape {given}")
        _check.same_device(name, edges, "x", x)
    if base not in BASES:
        raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")
    code = check_extrapolation(extrapolation)
    rows = x if x.dim() == 2 else x.reshape(-1, features)
    return Layer(rows, coef, knots, degree, scale, base_weight, code)


def weights(coef: Tensor, scale: Tensor | None, compute: torch.dtype) -> Tensor:
    """scale * coef in the compute type, [O, I, bases]."""
    coef = coef.to(compute)
    return coef if scale is None else coef * scale.to(compute).unsqueeze(-1)


def silu_slope(x: Tensor) -> Tensor:
    """The derivative of silu."""
    sigma = x.sigmoid()
    return sigma * (1 + x * (1 - sigma))


def layer_rows(layer: Layer, kernels: str) -> Tensor:
    """y [N, O] from the dense basis and a matrix product."""
    x, coef, grid, degree, scale, base_weight, extrapolation = layer
    compute = compute_type(x)
    points = x.to(compute)
    basis = basis_rows(points, grid, degree, 0, extrapolation, kernels)
    y = basis.flatten(1) @ weights(coef, scale, compute).flatten(1).T
    if base_weight is not None:
        y = y + F.silu(points) @ base_weight.to(compute).T
    return y.to(x.dtype)


def layer_grads(
    grad: Tensor, layer: Layer, wanted: int, kernels: str
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """The layer's gradients as differentiable expressions of everything: the way to second derivatives.

    wanted: bit 0 asks for x's, bit 1 for the weights'; None in place of the others.
    """
    x, coef, grid, degree, scale, base_weight, extrapolation = layer
    compute = compute_type(x)
    points, upstream = x.to(compute), grad.to(compute)
    grad_x = grad_coef = grad_scale = grad_base = None
    if wanted & 1:
        slope = basis_rows(points, grid, degree, 1, extrapolation, kernels)
        grad_x = (torch.einsum("no,oim->nim", upstream, weights(coef, scale, compute)) * slope).sum(-1)
        if base_weight is not None:
            grad_x = grad_x + silu_slope(points) * (upstream @ base_weight.to(compute))
        grad_x = grad_x.to(x.dtype)
    if wanted & 2:
        basis = basis_rows(points, grid, degree, 0, extrapolation, kernels)
        edge = torch.einsum("no,nim->oim", upstream, basis)
        grad_coef = (edge if scale is None else edge * scale.to(compute).unsqueeze(-1)).to(coef.dtype)
        if scale is not None:
            grad_scale = (edge * coef.to(compute)).sum(-1).to(scale.dtype)
        if base_weight is not None:
            grad_base = (upstream.T @ F.silu(points)).to(base_weight.dtype)
    return grad_x, grad_coef, grad_scale, grad_base
