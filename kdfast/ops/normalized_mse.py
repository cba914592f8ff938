"""Squared distance of normalised features, plain or with the spatial mean removed: the two views of ScaleKD.

Fan et al., "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", NeurIPS 2024, arXiv
2411.06786. Its "alternative view" (DCT, zero the constant coefficient, inverse DCT) is exactly the
subtraction of the spatial mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type, reduce_rows
from kdfast.ops._fake import register_fake
from kdfast.ops._features import safe_norm
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import scale_grad


def normalized_mse_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    dim: int | Sequence[int] = -1,
    center: bool = False,
    eps: float = 1e-6,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: |s/max(|s|, eps) - t/max(|t|, eps)|^2 along `dim`; no gradient where |s| <= eps."""
    compute = compute_type(student, teacher)
    dims = _check.dims(dim, student.dim())
    others = [d for d in range(1, student.dim()) if d not in dims]

    def view(x: Tensor) -> Tensor:
        x = x.to(compute)
        if center:
            x = x - x.mean(others, keepdim=True)
            x = x - x.mean(others, keepdim=True)  # what rounding the mean left
        x = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
        norm = safe_norm(x).unsqueeze(-1)
        flat = (x / eps).detach() if eps > 0 else torch.zeros_like(x)
        return torch.where(
            norm > eps, x / torch.where(norm > eps, norm, 1), torch.where(norm.isnan(), x, flat)
        )

    value = (view(student) - view(teacher.detach())).square().sum(-1)
    return reduce_rows(value, torch.ones_like(value), reduction, student.size(0))


class NormalizedMSE(Function):
    """The ops normalized_mse and normalized_mse_backward of a backend, over [B, P, C]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, kernels, center, eps, scale, reduce, with_grad):
        return backend.ops(kernels).normalized_mse(student, teacher, center, eps, scale, reduce, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, ctx.kernels, *options, _, ctx.with_grad = inputs
        ctx.options = options
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.name = "normalized_mse"
        ctx.save_for_backward(*((output[1],) if ctx.with_grad else (student, teacher)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        if grad_value is None:
            return (None,) * 8
        if ctx.with_grad:
            return scale_grad(*ctx.saved_tensors, grad_value, ctx.kernels), *(None,) * 7
        op = backend.ops(ctx.kernels).normalized_mse_backward
        return op(grad_value, *ctx.saved_tensors, *ctx.options), *(None,) * 7


def normalized_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    dim: int | Sequence[int] = -1,
    center: bool = False,
    eps: float = 1e-6,
    reduction: str = "batchmean",
) -> Tensor:
    """|s/max(|s|, eps) - t/max(|t|, eps)|^2 a row, the norms along `dim`: 2 - 2 cos where neither is tiny.

    Args:
        student, teacher: features of one shape, any dtypes and strides: maps [B, C, H, W] with dim=1, tokens
            [B, L, C] with dim=-1. The student gets the gradient.
        dim: the dimension that is normalised, or a tuple of them that are joined.
        center: subtract the mean over every dimension but 0 and `dim` first (an accurate two-pass mean).
        eps: smallest norm that is divided by. A row with a norm at or below it gets no gradient.
        reduction: "batchmean" (sum / student.size(0)), "none" (the student's shape without `dim`), "sum" or
            "mean".

    Returns:
        float32 (float64 if an input is float64), 0-d or one value per row.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    if student.dim() == 0:
        raise ValueError("student must have a dimension to normalise along, got a 0-d tensor")
    dims = _check.dims(dim, student.dim())
    if center and all(d in dims for d in range(1, student.dim())):
        raise ValueError(
            f"center needs a dimension beside 0 and dim={dim} to take the mean over, "
            f"got shape {tuple(student.shape)}"
        )
    eps = _check_features.not_negative("eps", eps)
    code = _check.reduction(reduction)
    kernels = backend.of(student, "normalized_mse")
    if kernels == "reference" or student.numel() == 0:
        return normalized_mse_reference(
            student, teacher, dim=dims, center=center, eps=eps, reduction=reduction
        )
    rows = [n for d, n in enumerate(student.shape) if d not in dims]
    scale = {"mean": 1 / math.prod(rows), "batchmean": 1 / student.size(0)}.get(reduction, 1.0)
    with_grad = (
        code != 0
        and student.requires_grad
        and torch.is_grad_enabled()
        and student.dtype != torch.float16  # a loss scaler's factor is not known yet
    )
    s, t = (_samples(x, dims) for x in (student, teacher.detach()))
    value = NormalizedMSE.apply(s, t, kernels, bool(center), eps, scale, code != 0, with_grad)[0]
    return value if code else value.reshape(rows)


def _samples(x: Tensor, dims: Sequence[int]) -> Tensor:
    """[batch, positions, features]: a view where memory allows it, else a copy."""
    x = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    if 0 in dims:
        x = x.unsqueeze(0)
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(student, teacher, center, eps, scale, reduce, with_grad):
    compute = compute_type(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    return student.new_empty(() if reduce else student.shape[:2], dtype=compute), grad


register_fake("normalized_mse", _fake)
register_fake("normalized_mse_backward", lambda up, student, *_: torch.empty_like(student))
