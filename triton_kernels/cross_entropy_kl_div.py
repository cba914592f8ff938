"""Cross entropy at temperature 1 and KL(p || q) at T of one student: torch.ops.kdfast_triton's schemas are
those of the native ops, which other losses on rows share, so that some arguments are not used here."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import rows
from .common import NUMBER, compute_type
from .cross_entropy_kl_div_kernels import (
    STATE,
    cross_entropy_kl_backward_kernel,
    cross_entropy_kl_forward_kernel,
)
from .divergence import BATCHMEAN, MEAN, NONE
from .launch import launch
from .library import define

INPUTS = (
    "Tensor student, Tensor? teacher, Tensor? index, Tensor? sparse, Tensor? class_weight, Tensor? mask, "
    "int[] dim, float temperature, float scale, float a, float b, float c, int ignore_index"
)


def _common(tile: rows.Tile, shape: rows.Geometry, student, teacher, options: tuple) -> dict:
    """What the forward and the backward kernel take alike; options: those behind the tensors."""
    _, temperature, scale, smoothing, _, _, ignore_index = options
    return {
        "n_rows": shape.rows,
        "ignore_index": ignore_index,
        "geometry": shape.argument(),
        "inverse_temperature": 1 / temperature,
        "scale": scale,
        "smoothing": smoothing,
        "SMOOTH": smoothing != 0,
        "TYPE": NUMBER[compute_type(student, teacher)],
        "INDEX": tl.int64 if shape.rows > 2**31 - 2**16 else tl.int32,
        "ROWS": tile.rows,
        "LANES": tile.lanes,
        "STEPS": tile.steps,
        "num_warps": tile.num_warps,
    }


def _check_on_cpu(index: Tensor, mask: Tensor | None, classes: int, ignore_index: int) -> None:
    """Contents are looked at where that costs no synchronisation: in the interpreter."""
    if index.device.type != "cpu":
        return
    wrong = (index != ignore_index) & ((index < 0) | (index >= classes))
    if mask is not None:
        wrong &= mask.reshape(index.shape) != 0
    if wrong.any():
        given = index[wrong][0].item()
        raise ValueError(f"target must hold class numbers in [0, {classes - 1}], got {given}")


def forward(
    student: Tensor,
    teacher: Tensor,
    index: Tensor,
    sparse: None,
    class_weight: Tensor | None,
    mask: Tensor | None,
    *rest: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The op cross_entropy_kl_div: ce, kl, no gradient, state [rows, 9], and both norms."""
    *options, reduction, _ = rest
    dim = options[0]
    ce, kl, grad, state, norm, second_norm = fake(student, teacher, index, sparse, class_weight, mask, *rest)
    shape = rows.geometry(student, teacher, student, dim)
    _check_on_cpu(index, mask, shape.classes, options[-1])
    tile = rows.choose_tile(shape, max(student.element_size(), teacher.element_size()))
    values = [state.new_empty(shape.rows) for _ in range(4)]
    names = ("ce_value", "ce_weight", "kl_value", "kl_weight")
    launch(
        cross_entropy_kl_forward_kernel,
        triton.cdiv(shape.rows, tile.rows),
        student=student,
        teacher=teacher,
        index=index,
        class_weight=class_weight,
        mask=mask,
        state=state,
        LOOPED=tile.looped,
        STAGES=tile.num_stages,
        **dict(zip(names, values, strict=True)),
        **_common(tile, shape, student, teacher, options),
    )
    if reduction == NONE:
        return values[0].view_as(ce), values[2].view_as(kl), grad, state, norm.fill_(1), second_norm.fill_(1)
    batch = torch.full_like(norm, student.size(0) if student.dim() else 1)
    found = [_reduced(*values[i : i + 2], reduction, batch) for i in (0, 2)]
    return found[0][0], found[1][0], grad, state, found[0][1], found[1][1]


def _reduced(value: Tensor, weight: Tensor, reduction: int, batch: Tensor) -> tuple[Tensor, Tensor]:
    """A loss and its norm, what the rows' gradients are multiplied by; sums in float64."""
    total = value.sum(dtype=torch.float64)
    if reduction not in (MEAN, BATCHMEAN):
        return total.to(value.dtype), torch.ones_like(batch)
    count = weight.sum(dtype=torch.float64) if reduction == MEAN else batch.double()
    inverse = torch.where(count == 0, 0, 1 / count)
    return torch.where(count == 0, 0, total * inverse).to(value.dtype), inverse.to(value.dtype)


def fake(student: Tensor, teacher: Tensor, index, sparse, class_weight, mask, dim, *rest: object):
    """The op's outputs, unwritten."""
    reduction = rest[-2]
    compute = compute_type(student, teacher)
    sizes = [size for i, size in enumerate(student.shape) if i not in dim]
    new = lambda *shape: student.new_empty(shape, dtype=compute)  # noqa: E731
    value = lambda: new(*sizes) if reduction == NONE else new()  # noqa: E731
    return value(), value(), new(0), new(math.prod(sizes), STATE.value), new(), new()


def backward(
    upstream: Tensor,
    second: Tensor,
    state: Tensor,
    norm: Tensor,
    second_norm: Tensor,
    student: Tensor,
    teacher: Tensor,
    index: Tensor,
    sparse: None,
    class_weight: Tensor | None,
    mask: Tensor | None,
    *options: object,
) -> Tensor:
    """The op cross_entropy_kl_div_backward: the gradient with respect to the student."""
    grad = torch.empty_like(student)
    shape = rows.geometry(student, teacher, grad, options[0])
    tile = rows.choose_gradient_tile(shape, max(student.element_size(), teacher.element_size()))
    blocks = triton.cdiv(shape.classes, tile.lanes * tile.steps)
    launch(
        cross_entropy_kl_backward_kernel,
        triton.cdiv(shape.rows, tile.rows) * blocks,
        student=student,
        teacher=teacher,
        index=index,
        class_weight=class_weight,
        mask=mask,
        ce_upstream=upstream.contiguous(),
        ce_norm=norm,
        kl_upstream=second.contiguous(),
        kl_norm=second_norm,
        state=state,
        grad=grad,
        PER_ROW=upstream.dim() > 0,
        **_common(tile, shape, student, teacher, options),
    )
    return grad


define(
    f"cross_entropy_kl_div({INPUTS}, int reduction, bool with_grad) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    forward,
    fake,
)
define(
    "cross_entropy_kl_div_backward(Tensor upstream, Tensor? second, Tensor state, Tensor norm, "
    f"Tensor second_norm, {INPUTS}) -> Tensor",
    backward,
    lambda upstream, second, state, norm, second_norm, student, *_: torch.empty_like(student),
)
