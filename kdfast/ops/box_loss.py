"""L1 and generalised IoU between boxes that belong together: the localisation terms of DETR and of its
distillation.

GIoU = I/U - (C - U)/C with intersection I, union U, enclosing area C (Rezatofighi et al., CVPR 2019).
Elementwise: no [N, N] matrix whose diagonal is then taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type, reduce_rows
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops._pairs import makes_gradient
from kdfast.ops.scale_grad import scale_grad

# Areas (of the unit square) up to here count as none: I/U and (C - U)/C are then 0, without gradient.
_EMPTY = 1e-12


def box_loss_reference(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    *,
    weight: Tensor | None = None,
    l1: float = 5.0,
    giou: float = 2.0,
    reduction: str = "sum",
) -> Tensor:
    """The definition: weight * (l1 * mean |s - t| + giou * (1 - GIoU(s, t))) a row."""
    compute = compute_type(student_boxes, teacher_boxes)
    s, t = student_boxes.to(compute), teacher_boxes.detach().to(compute)
    w = (
        torch.ones(s.shape[:-1], dtype=compute, device=s.device)
        if weight is None
        else weight.detach().to(compute)
    )
    s, t = (torch.where((w != 0).unsqueeze(-1), x, 0.5) for x in (s, t))
    value = l1 * (s - t).abs().mean(-1) + giou * (1 - generalized_iou(s, t))
    return reduce_rows(value * w, w, reduction, s.size(0) if s.dim() > 1 else 1)


def generalized_iou(s: Tensor, t: Tensor) -> Tensor:
    """GIoU of cxcywh boxes, row by row."""
    (low_s, high_s), (low_t, high_t) = _corners(s), _corners(t)
    shared = torch.minimum(high_s, high_t) - torch.maximum(low_s, low_t)
    overlap = _area(
        torch.where(shared >= 0, shared, 0)
    )  # boxes that touch get a gradient, unlike by clamp or relu
    hull = _area(torch.maximum(high_s, high_t) - torch.minimum(low_s, low_t))
    union = _area(s[..., 2:]) + _area(t[..., 2:]) - overlap
    return _share(overlap, union) - _share(hull - union, hull)


def _corners(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2


def _area(size: Tensor) -> Tensor:
    return size[..., 0] * size[..., 1]


def _share(part: Tensor, whole: Tensor) -> Tensor:
    empty = whole <= _EMPTY
    return torch.where(empty, 0, part / torch.where(empty, 1, whole))


class BoxLoss(Function):
    """The ops box_loss and box_loss_backward of a backend, over boxes [N, 4]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, weight, kernels, l1, giou, scale, by_weights, reduce, with_grad):
        op = backend.ops(kernels).box_loss
        return op(student, teacher, weight, l1, giou, scale, by_weights, reduce, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, weight, ctx.kernels, *ctx.options, _, ctx.with_grad = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.name = "box_loss"
        ctx.save_for_backward(*((output[1],) if ctx.with_grad else (student, teacher, weight)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        if grad_value is None:
            return (None,) * 10
        if ctx.with_grad:
            return scale_grad(*ctx.saved_tensors, grad_value, ctx.kernels), *(None,) * 9
        op = backend.ops(ctx.kernels).box_loss_backward
        return op(grad_value, *ctx.saved_tensors, *ctx.options), *(None,) * 9


def box_loss(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    *,
    weight: Tensor | None = None,
    l1: float = 5.0,
    giou: float = 2.0,
    reduction: str = "sum",
) -> Tensor:
    """weight * (l1 * mean over the coordinates of |s - t| + giou * (1 - GIoU)), row k with row k.

    Args:
        student_boxes, teacher_boxes: [..., 4] in cxcywh, normalised to the unit square. The student's get
            the gradient.
        weight: [...], one a row; 0 drops a row. A constant.
        l1, giou: factors of the two terms, 0 or above.
        reduction: "sum", "mean" (sum / sum of the weights, 0 if they sum to 0), "none" or "batchmean" (sum /
            size(0)).

    Returns:
        float32 (float64 if an input is), 0-d or [...]. Finite for boxes without area: two that share none of
        it have IoU 0.

    Raises TypeError, ValueError or RuntimeError for bad input; boxes with NaN or negative sizes ValueError
    on the CPU.
    """
    _check_features.pair(student_boxes, teacher_boxes, names=("student_boxes", "teacher_boxes"))
    if student_boxes.dim() == 0 or student_boxes.size(-1) != 4:
        raise ValueError(f"student_boxes must be [..., 4] in cxcywh, got shape {tuple(student_boxes.shape)}")
    rows = student_boxes.shape[:-1]
    if weight is not None:
        _check.tensor("weight", weight)
        _check_features.shape("weight", weight, rows, "one number per row")
        _check.same_device("weight", weight, "student_boxes", student_boxes)
    l1, giou = _check_features.not_negative("l1", l1), _check_features.not_negative("giou", giou)
    code = _check.reduction(reduction)
    kernels = backend.of(student_boxes, "box_loss")
    if kernels == "reference" or student_boxes.numel() == 0:
        counted = None if weight is None else weight != 0
        for name, x in (("student_boxes", student_boxes), ("teacher_boxes", teacher_boxes)):
            _check_features.box_contents(name, x, counted)
        return box_loss_reference(
            student_boxes, teacher_boxes, weight=weight, l1=l1, giou=giou, reduction=reduction
        )
    if weight is not None:
        weight = weight.detach().to(compute_type(student_boxes, teacher_boxes)).reshape(-1).contiguous()
    by_weights = reduction == "mean" and weight is not None
    divisor = {"batchmean": rows[0] if rows else 1, "mean": 1 if by_weights else rows.numel()}
    value = BoxLoss.apply(
        student_boxes.reshape(-1, 4),
        teacher_boxes.detach().reshape(-1, 4),
        weight,
        kernels,
        l1,
        giou,
        1 / divisor.get(reduction, 1),
        by_weights,
        code != 0,
        code != 0 and makes_gradient(student_boxes),
    )[0]
    return value if code else value.reshape(rows)


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(student, teacher, weight, l1, giou, scale, by_weights, reduce, with_grad):
    compute = compute_type(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    return student.new_empty(() if reduce else student.shape[:1], dtype=compute), grad


register_fake("box_loss", _fake)
register_fake("box_loss_backward", lambda up, student, *_: torch.empty_like(student))


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.rand(5, 4, generator=generator) for _ in range(2)], {}
