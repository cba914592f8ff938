"""The norm-and-direction loss: a program a row, one pass for its four sums, a second for its gradient.

value = 1 - <s, m> / (|m| n), n the longer of |s| and |t| (a tie goes to the student); see csrc/nd_loss.h.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import NUMBER, compute_type, rounded, square_root
from .launch import launch
from .library import define

BLOCK = 1024  # of a row; a longer one is walked


@triton.jit
def nd_loss_kernel(
    student,
    student_row,
    student_step,
    teacher,
    teacher_row,
    teacher_step,
    means,
    means_row,
    means_step,
    target,
    mask,
    factor,
    factor_step,
    value,
    weight,
    grad,
    grad_row,
    grad_step,
    width,
    ignore_index,
    HAS_MASK: tl.constexpr,
    HAS_VALUE: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program `row`. factor: what the row's gradient is multiplied by, one number or [rows]."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(target + row)
    w = tl.load(mask + row) if HAS_MASK else tl.full((), 1, TYPE)
    wanted = (label != ignore_index) & (w != 0)
    student += row * student_row
    teacher += row * teacher_row
    means += tl.where(wanted, label, 0) * means_row
    at = tl.arange(0, BLOCK).to(tl.int64)
    ss = tl.zeros((BLOCK,), TYPE)
    tt, mm, sm = ss, ss, ss
    for first in range(0, width, BLOCK):
        i = first + at
        here = (i < width) & wanted
        s = tl.load(student + i * student_step, mask=here, other=0).to(TYPE)
        t = tl.load(teacher + i * teacher_step, mask=here, other=0).to(TYPE)
        m = tl.load(means + i * means_step, mask=here, other=0).to(TYPE)
        ss += s * s
        tt += t * t
        mm += m * m
        sm += s * m
    s_norm, t_norm = square_root(tl.sum(ss)), square_root(tl.sum(tt))
    square = tl.sum(mm)
    known = wanted & (square == square)
    own = s_norm >= t_norm
    longer = tl.where(own, s_norm, t_norm)
    mean_norm = square_root(square)
    flat = (mean_norm == 0) | (longer == 0)
    safe_mean, safe_longer = tl.where(flat, 1, mean_norm), tl.where(flat, 1, longer)
    cosine = tl.where(flat, 0, tl.sum(sm) / safe_mean / safe_longer)
    if HAS_VALUE:
        tl.store(value + row, tl.where(known, w * (1 - cosine), 0))
        tl.store(weight + row, tl.where(known, w, 0))
    if HAS_GRAD:
        none = (known == 0) | flat
        by = w * tl.load(factor + row * factor_step)
        by_mean, by_student = (
            -by / (safe_mean * safe_longer),
            tl.where(own, by * cosine / (safe_longer * safe_longer), 0),
        )
        grad += row * grad_row
        for first in range(0, width, BLOCK):
            i = first + at
            here = i < width
            s = tl.load(student + i * student_step, mask=here & (none == 0), other=0).to(TYPE)
            m = tl.load(means + i * means_step, mask=here & (none == 0), other=0).to(TYPE)
            g = tl.where(none, 0, by_mean * m + by_student * s)
            tl.store(grad + i * grad_step, rounded(g, grad.dtype.element_ty), mask=here)


def _run(student, teacher, means, target, mask, ignore_index, value, weight, grad, factor) -> None:
    rows, width = student.shape
    out = student if grad is None else grad
    arguments = (
        student,
        *student.stride(),
        teacher,
        *teacher.stride(),
        means,
        *means.stride(),
        target,
        target if mask is None else mask,
        factor,
        0 if factor.dim() == 0 else 1,
        factor if value is None else value,
        factor if weight is None else weight,
        out,
        *out.stride(),
        width,
        ignore_index,
    )
    compute = NUMBER[compute_type(student, teacher)]
    launch(
        nd_loss_kernel,
        rows,
        arguments,
        HAS_MASK=mask is not None,
        HAS_VALUE=value is not None,
        HAS_GRAD=grad is not None,
        TYPE=compute,
        BLOCK=min(BLOCK, triton.next_power_of_2(width)),
        num_warps=4,
    )


def nd_loss(
    student: Tensor,
    teacher: Tensor,
    class_means: Tensor,
    target: Tensor,
    mask: Tensor | None,
    ignore_index: int,
    reduction: int,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and what is left to multiply it by; reduction 0 none, 1 mean, 2 sum, 3 batchmean."""
    compute, rows = compute_type(student, teacher), student.size(0)
    value, weight = (student.new_empty(rows, dtype=compute) for _ in range(2))
    grad = torch.empty_like(student) if with_grad else None
    one = student.new_ones((), dtype=compute)
    if reduction == 1:
        presumed = (one * rows if mask is None else mask.sum()) if with_grad else one
    else:
        presumed = one * max(rows, 1) if reduction == 3 and with_grad else one
    factor = torch.where(presumed == 0, 0, 1 / presumed)
    _run(student, teacher, class_means, target, mask, ignore_index, value, weight, grad, factor)
    empty = student.new_empty(0, dtype=compute)
    if reduction == 0:
        return value, empty if grad is None else grad, one
    total, count = value.sum(), {1: weight.sum(), 2: one, 3: one * rows}[reduction]
    inverse = torch.where(count == 0, 0, 1 / count)
    return total * inverse, empty if grad is None else grad, inverse * presumed


def nd_loss_backward(
    grad_value: Tensor,
    norm: Tensor,
    student: Tensor,
    teacher: Tensor,
    class_means: Tensor,
    target: Tensor,
    mask: Tensor | None,
    ignore_index: int,
) -> Tensor:
    """The gradient under `grad_value`, 0-d or [B]."""
    grad = torch.empty_like(student)
    factor = (grad_value * norm).contiguous()
    _run(student, teacher, class_means, target, mask, ignore_index, None, None, grad, factor)
    return grad


def _fake(student, teacher, class_means, target, mask, ignore_index, reduction, with_grad):
    compute = compute_type(student, teacher)
    value = student.new_empty((student.size(0),) if reduction == 0 else (), dtype=compute)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    return value, grad, student.new_empty((), dtype=compute)


define(
    "nd_loss(Tensor student, Tensor teacher, Tensor class_means, Tensor target, Tensor? mask, "
    "int ignore_index, int reduction, bool with_grad) -> (Tensor, Tensor, Tensor)",
    nd_loss,
    _fake,
)
define(
    "nd_loss_backward(Tensor grad_value, Tensor norm, Tensor student, Tensor teacher, Tensor class_means, "
    "Tensor target, Tensor? mask, int ignore_index) -> Tensor",
    nd_loss_backward,
    lambda up, norm, student, *_: torch.empty_like(student),
)
