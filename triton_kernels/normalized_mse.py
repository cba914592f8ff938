"""Squared distance of normalised features: the launches of normalized_mse_kernels.py."""

import torch
import triton
from torch import Tensor

from .common import NUMBER, compute_type
from .launch import launch
from .library import define
from .maps import map_arguments
from .normalized_mse_kernels import centred_kernel, means_kernel, positions_kernel

POSITIONS, CHANNELS = 256, 1024  # of a tile


def _run(
    student: Tensor,
    teacher: Tensor,
    center: bool,
    eps: float,
    scale: float,
    upstream: Tensor,
    grad: Tensor | None,
) -> Tensor:
    batch, positions, channels = student.shape
    compute = compute_type(student, teacher)
    new = {"dtype": compute}
    value, state = (
        student.new_empty((batch, positions), **new),
        student.new_empty((4, batch * positions), **new),
    )
    means = student.new_empty((2, batch * channels if center else 1), **new)
    maps = (
        *map_arguments(student),
        *map_arguments(teacher),
        *map_arguments(student if grad is None else grad),
    )
    options = {"TYPE": NUMBER[compute], "num_warps": 4}
    by_position = min(POSITIONS, triton.next_power_of_2(max(positions, 1)))
    if center:
        for x, to in ((student, means[0]), (teacher, means[1])):
            launch(
                means_kernel,
                batch * channels,
                (*map_arguments(x), to, positions, channels),
                PB=by_position,
                **options,
            )
    launch(
        positions_kernel,
        batch * positions,
        (
            *maps,
            means[0],
            means[1],
            upstream,
            0 if upstream.dim() == 0 else 1,
            state,
            value,
            eps,
            scale,
            positions,
            channels,
            batch * positions,
        ),
        CENTER=center,
        HAS_GRAD=grad is not None,
        CB=min(CHANNELS, triton.next_power_of_2(channels)),
        **options,
    )
    if center and grad is not None:
        launch(
            centred_kernel,
            batch * channels,
            (*maps, means[0], means[1], state, positions, channels, batch * positions),
            PB=by_position,
            **options,
        )
    return value


def normalized_mse(
    student: Tensor, teacher: Tensor, center: bool, eps: float, scale: float, reduce: bool, with_grad: bool
) -> tuple[Tensor, Tensor]:
    """The value, [B, P] or their sum, and the gradient of the sum."""
    compute = compute_type(student, teacher)
    grad = torch.empty_like(student) if with_grad else None
    value = _run(student, teacher, center, eps, scale, student.new_ones((), dtype=compute), grad)
    return value.sum() if reduce else value, student.new_empty(0, dtype=compute) if grad is None else grad


def normalized_mse_backward(
    grad_value: Tensor, student: Tensor, teacher: Tensor, center: bool, eps: float, scale: float
) -> Tensor:
    """The gradient under `grad_value`, 0-d or [B, P]."""
    grad = torch.empty_like(student)
    _run(student, teacher, center, eps, scale, grad_value.contiguous(), grad)
    return grad


def _fake(student, teacher, center, eps, scale, reduce, with_grad):
    compute = compute_type(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    return student.new_empty(() if reduce else student.shape[:2], dtype=compute), grad


define(
    "normalized_mse(Tensor student, Tensor teacher, bool center, float eps, float scale, bool reduce, "
    "bool with_grad) -> (Tensor, Tensor)",
    normalized_mse,
    _fake,
)
define(
    "normalized_mse_backward(Tensor grad_value, Tensor student, Tensor teacher, bool center, float eps, "
    "float scale) -> Tensor",
    normalized_mse_backward,
    lambda up, student, *_: torch.empty_like(student),
)
