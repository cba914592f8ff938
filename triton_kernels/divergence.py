"""The divergence family: what turns a formula into the ops torch.ops.kdfast_triton.X and X_backward.

A member is a formula of one class (see formulas.py) and two facts about it; its room, X.py, holds just that.
Schemas, the order of reductions and the eight numbers of a row's state are those of the native ops.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import rows
from .common import NUMBER, compute_type
from .divergence_kernels import backward_kernel, forward_kernel, total_kernel
from .launch import launch
from .library import define

NONE, MEAN, SUM, BATCHMEAN = range(4)
ROW_STATE = 8
PARTIALS = 1024  # programs whose sums the last kernel adds at a time
FORWARD = (
    "{}(Tensor student, Tensor teacher, Tensor? mask, int[] dim, float temperature, float scale, "
    "float param, int reduction, bool with_grad) -> (Tensor value, Tensor grad, Tensor state, Tensor norm)"
)
BACKWARD = (
    "{}_backward(Tensor grad_value, Tensor norm, Tensor student, Tensor teacher, Tensor? mask, "
    "Tensor state, int[] dim, float temperature, float scale, float param) -> Tensor grad"
)


@dataclass(frozen=True)
class Divergence:
    """A member of the family.

    formula: the @triton.jit function (p, q, d, v, param) -> (value, score) of formulas.py.
    score: "none" if the gradient is d = q - p; "linear" if the score is log q/p, whose mean pass 1 can give;
    else "sum". infinite: "student" or "teacher" if a class that is impossible only there makes the value
    +inf; else "never".
    """

    formula: Callable
    score: str
    infinite: str


def common_arguments(member: Divergence, tile: rows.Tile, shape: rows.Geometry, compute: torch.dtype) -> dict:
    """What the forward and the backward kernel take alike."""
    return {
        "n_rows": shape.rows,
        "geometry": shape.argument(),
        "FORMULA": member.formula,
        "SCORE": member.score,
        "INFINITE": member.infinite,
        "TYPE": NUMBER[compute],
        "INDEX": tl.int64 if shape.rows > 2**31 - 2**16 else tl.int32,  # the room that a tile may overhang
        "ROWS": tile.rows,
        "LANES": tile.lanes,
        "STEPS": tile.steps,
        "num_warps": tile.num_warps,
    }


def forward(
    member: Divergence,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    dim: list[int],
    temperature: float,
    scale: float,
    param: float,
    reduction: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The op X: value, gradient ([0] unless with_grad), state ([0, 8] if with_grad) and norm."""
    value, grad, state, norm = forward_fake(
        student, teacher, mask, dim, temperature, scale, param, reduction, with_grad
    )
    shape = rows.geometry(student, teacher, grad if with_grad else student, dim)
    tile = rows.choose_tile(shape, max(student.element_size(), teacher.element_size()))
    programs = triton.cdiv(shape.rows, tile.rows)
    partial = None if reduction == NONE else norm.new_empty((programs, 3))
    planned = mask.sum() if with_grad and reduction == MEAN and mask is not None else None
    batch = max(student.size(0), 1) if student.dim() else 1
    presumed = {MEAN: max(shape.rows, 1) if mask is None else 1, BATCHMEAN: batch}.get(reduction, 1)
    launch(
        forward_kernel,
        programs,
        student=student,
        teacher=teacher,
        mask=mask,
        mask_sum=planned,
        grad=grad if with_grad else None,
        row_value=value if reduction == NONE else None,
        partial=partial,
        state=None if with_grad else state,
        inverse_temperature=1 / temperature,
        scale=scale,
        param=param,
        grad_factor=scale / temperature / presumed,
        LOOPED=tile.looped,
        STAGES=tile.num_stages,
        **common_arguments(member, tile, shape, norm.dtype),
    )
    if reduction == NONE:
        norm.fill_(1)
        return value, grad, state, norm
    launch(
        total_kernel,
        1,
        partial=partial,
        planned=planned,
        value=value,
        norm=norm,
        n_programs=programs,
        n_rows=shape.rows,
        scale=1 / batch if reduction == BATCHMEAN else 1.0,
        MEAN=reduction == MEAN,
        WITH_GRAD=with_grad,
        BLOCK=PARTIALS,
        num_warps=8,
    )
    return value, grad, state, norm


def forward_fake(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    dim: list[int],
    temperature: float,
    scale: float,
    param: float,
    reduction: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X's outputs, unwritten."""
    compute = compute_type(student, teacher)
    sizes = [size for i, size in enumerate(student.shape) if i not in dim]
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    state = student.new_empty((0 if with_grad else math.prod(sizes), ROW_STATE), dtype=compute)
    value = student.new_empty(sizes if reduction == NONE else (), dtype=compute)
    return value, grad, state, student.new_empty((), dtype=compute)


def backward(
    member: Divergence,
    grad_value: Tensor,
    norm: Tensor,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    state: Tensor,
    dim: list[int],
    temperature: float,
    scale: float,
    param: float,
) -> Tensor:
    """The op X_backward: the gradient with respect to the student, from the rows' state."""
    grad = torch.empty_like(student)
    shape = rows.geometry(student, teacher, grad, dim)
    tile = rows.choose_gradient_tile(shape, max(student.element_size(), teacher.element_size()))
    blocks = triton.cdiv(shape.classes, tile.lanes * tile.steps)
    launch(
        backward_kernel,
        triton.cdiv(shape.rows, tile.rows) * blocks,
        student=student,
        teacher=teacher,
        mask=mask,
        upstream=grad_value.contiguous(),
        norm=norm,
        grad=grad,
        state=state,
        inverse_temperature=1 / temperature,
        param=param,
        grad_factor=scale / temperature,
        PER_ROW=grad_value.dim() > 0,
        **common_arguments(member, tile, shape, norm.dtype),
    )
    return grad


def backward_fake(grad_value: Tensor, norm: Tensor, student: Tensor, *_: object) -> Tensor:
    """X_backward's output, unwritten."""
    return torch.empty_like(student)


def register(name: str, member: Divergence) -> None:
    """Defines torch.ops.kdfast_triton.<name> and <name>_backward."""
    define(FORWARD.format(name), functools.partial(forward, member), forward_fake)
    define(BACKWARD.format(name), functools.partial(backward, member), backward_fake)
