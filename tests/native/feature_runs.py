"""Runs of the feature losses' CUDA kernels on the emulated device, from torch tensors: what the ops do around
them."""

from __future__ import annotations

import numpy as np
import torch
from native.arrays import far_apart, filled
from torch import Tensor


def raw(x: Tensor | None) -> np.ndarray | None:
    """A tensor's memory as numpy sees it; bfloat16 as its bits."""
    if x is None:
        return None
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def far(x: Tensor, dim: int) -> Tensor:
    """The same numbers, those at the end of `dim` more than 2^31 elements behind its beginning."""
    strides = list(x.contiguous().stride())
    strides[dim] = (1 << 31) // (x.size(dim) - 1) + 64
    apart = torch.from_numpy(far_apart(tuple(x.shape), tuple(strides), str(x.dtype).removeprefix("torch.")))
    return apart.copy_(x)


def nothing(x: Tensor) -> Tensor:
    """A tensor like x full of NaN, with its strides if they are far()."""
    for dim, stride in enumerate(x.stride()):
        if x.numel() and stride * (x.size(dim) - 1) > 1 << 31:
            return far(torch.full(x.shape, torch.nan, dtype=x.dtype), dim)
    return torch.full_like(x, torch.nan)


def _compute(student: Tensor, teacher: Tensor) -> str:
    return "float64" if torch.float64 in (student.dtype, teacher.dtype) else "float32"


def nd_loss(native, student, teacher, means, target, *, mask=None, upstream=None):
    """Row values, weights and gradient of the plain sum (or under `upstream` [rows])."""
    kind = _compute(student, teacher)
    value, weight, grad = filled((len(target),), kind), filled((len(target),), kind), nothing(student)
    shared = (raw(student), raw(teacher), raw(means), raw(target))
    if upstream is None:
        native.nd_loss(*shared, mask=raw(mask), value=value, weight=weight, grad=raw(grad))
    else:
        native.nd_loss(*shared, mask=raw(mask), grad=raw(grad), upstream=raw(upstream), norm=np.ones(1, kind))
    return torch.from_numpy(value), torch.from_numpy(weight), grad


def normalized_mse(native, student, teacher, *, center, eps=1e-6, upstream=None):
    """Row values and the gradient of their sum (or under `upstream` [B, P])."""
    batch, positions, channels = student.shape
    kind = _compute(student, teacher)
    value, grad = filled((batch, positions), kind), nothing(student)
    workspace = filled((batch, 2 * channels + 6 * ((positions + 15) // 16 * 16)), kind)
    native.normalized_mse(raw(student), raw(teacher), center=center, eps=eps, value=value, grad=raw(grad),
                          upstream=raw(upstream), workspace=workspace)  # fmt: skip
    return torch.from_numpy(value), grad


def weighted_mse(
    native,
    student,
    teacher,
    *,
    position=None,
    channel=None,
    gain=None,
    upstream=None,
    grad=None,
    unless_equal=False,
):
    """The two values, e, g and the gradient of the values' sum (or of a weighted sum, into `grad`)."""
    batch, positions, channels = student.shape
    kind = _compute(student, teacher)
    block = 2048 if student.stride(1) == 1 and student.stride(2) != 1 else 64
    grad = nothing(student) if grad is None else grad
    weights = {
        "position": raw(position),
        "channel": raw(channel),
        "gain": raw(gain),
        "grad": raw(grad),
        "block": block,
    }
    if upstream is not None:
        ups = [np.array([u], kind) for u in upstream]
        upstreams = {"upstream_position": ups[0], "upstream_channel": ups[1]}
        native.weighted_mse(raw(student), raw(teacher), **weights, **upstreams, unless_equal=unless_equal)
        return grad
    e = None if position is None else filled((batch, positions), kind)
    part = None if channel is None else filled((batch, -(-positions // block), channels), kind)
    g, values = None if channel is None else filled((batch, channels), kind), filled((2,), kind)
    native.weighted_mse(raw(student), raw(teacher), **weights, e=e, part=part, g=g, values=values)
    return torch.from_numpy(values), e, g, grad


def run_all(native) -> None:
    """Every kernel once."""
    x = torch.rand(2, 5, 3)
    nd_loss(native, x[0], x[1], x[0], torch.arange(5))
    for tokens in (x, x.mT.contiguous().mT):
        weighted_mse(native, tokens, tokens, position=torch.rand(2, 5), channel=torch.rand(2, 3))
    for center in (False, True):
        normalized_mse(native, x, x, center=center)
