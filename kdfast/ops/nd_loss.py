"""The norm-and-direction loss on embeddings: align a student with its class's mean and let its norm grow to
the teacher's.

Wang et al., "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", ECCV 2024, arXiv
2305.17007.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type, reduce_rows
from kdfast.ops._fake import register_fake
from kdfast.ops._features import divide, safe_norm
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import scale_grad


def nd_loss_reference(
    student: Tensor,
    teacher: Tensor,
    class_means: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """The definition: 1 - <s, c/|c|> / max(|s|, |t|) a row; a tie of the norms goes to the student."""
    compute = compute_type(student, teacher)
    known = target != ignore_index
    mean = class_means.detach().to(compute)[torch.where(known, target, 0).long()]
    weight = torch.ones(target.shape, dtype=compute, device=student.device)
    weight = weight if mask is None else mask.detach().to(compute)
    counted = known & ~mean.isnan().any(-1) & (weight != 0)
    s, t, mean = (
        torch.where(counted.unsqueeze(-1), x.to(compute), 0) for x in (student, teacher.detach(), mean)
    )
    s_norm, t_norm = safe_norm(s), safe_norm(t)
    longer = torch.where(s_norm >= t_norm, s_norm, t_norm)
    cosine = divide(divide((s * mean).sum(-1), safe_norm(mean)), longer)
    weight = torch.where(counted, weight, 0)
    value = torch.where(counted, 1 - cosine, 0) * weight
    return reduce_rows(value, weight, reduction, student.size(0))


class NDLoss(Function):
    """The ops nd_loss and nd_loss_backward of a backend, as one differentiable function of the student."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, class_means, target, mask, kernels, ignore_index, reduction, with_grad):
        op = backend.ops(kernels).nd_loss
        return op(student, teacher, class_means, target, mask, ignore_index, reduction, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.kernels, ctx.ignore_index, _, ctx.with_grad = inputs
        _, grad, norm = output
        ctx.mark_non_differentiable(grad, norm)
        ctx.set_materialize_grads(False)
        ctx.name = "nd_loss"
        ctx.save_for_backward(*((grad, norm) if ctx.with_grad else (norm, *tensors)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        if grad_value is None:
            return (None,) * 9
        if ctx.with_grad:
            grad, norm = ctx.saved_tensors
            return scale_grad(grad, grad_value * norm, ctx.kernels), *(None,) * 8
        op = backend.ops(ctx.kernels).nd_loss_backward
        return op(grad_value, *ctx.saved_tensors, ctx.ignore_index), *(None,) * 8


def nd_loss(
    student: Tensor,
    teacher: Tensor,
    class_means: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """1 - <s, c_y/|c_y|> / max(|s|, |t|): pulls a student's embedding along its class's direction, up to the
    teacher's norm.

    While |t| > |s| the gradient is -c/(|c| |t|): direction and norm. Else it is that of the cosine: the norm
    is let be. A tie goes to the student (arXiv 2305.17007, the official code's `max`).

    Args:
        student: embeddings [B, D]; float64, float32, bfloat16 or float16. Gets the gradient.
        teacher: embeddings [B, D]; a constant.
        class_means: the teacher's mean embedding of every class [K, D] (`kdfast.nn.ClassMeans` makes them); a
            constant. A row with a NaN is a class that is not known: its samples are not counted.
        target: classes [B], integers in [0, K) or `ignore_index`.
        mask: bool or float [B]; 0 drops the row, other values weigh it.
        ignore_index: the target of rows that are not counted.
        reduction: "mean" (sum / sum of the counted rows' weights), "none", "sum" or "batchmean" (sum / B).

    Returns:
        float32 (float64 if student or teacher is), 0-d or [B]. A row whose class mean has norm 0, or with s
        = t = 0, has value 1 and gradient 0, and counts.

    Raises TypeError, ValueError or RuntimeError for bad input; a class out of range raises ValueError on the
    CPU.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 2, "[batch, features]")
    _check.floating("class_means", class_means)
    _check_features.ndim("class_means", class_means, 2, "[classes, features]")
    if class_means.size(1) != student.size(1) or class_means.size(0) == 0 or student.size(1) == 0:
        raise ValueError(
            f"class_means must be [classes, {student.size(1)}] as student is {tuple(student.shape)}, "
            f"with at least one class and one feature, got {tuple(class_means.shape)}"
        )
    _check_features.integers("target", target)
    _check_features.shape("target", target, student.shape[:1], "one class per row")
    for name, x in (("class_means", class_means), ("target", target)):
        _check.same_device(name, x, "student", student)
    _check.whole_number("ignore_index", ignore_index, -(2**63))
    code = _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, student.shape[:1], student)
    kernels = backend.of(student, "nd_loss")
    if kernels != "native":  # whose op checks it itself
        _check_features.indices("target", target, class_means.size(0), ignore_index)
    if kernels == "reference":
        return nd_loss_reference(
            student, teacher, class_means, target, mask=mask, ignore_index=ignore_index, reduction=reduction
        )
    if mask is not None:
        mask = mask.detach().to(compute_type(student, teacher)).contiguous()
    with_grad = (
        code != 0
        and student.requires_grad
        and torch.is_grad_enabled()
        and student.dtype != torch.float16  # a loss scaler's factor is not known yet
    )
    return NDLoss.apply(
        student,
        teacher.detach(),
        class_means.detach(),
        target.long().contiguous(),
        mask,
        kernels,
        ignore_index,
        code,
        with_grad,
    )[0]


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(student, teacher, class_means, target, mask, ignore_index, reduction, with_grad):
    compute = compute_type(student, teacher)
    value = student.new_empty((student.size(0),) if reduction == 0 else (), dtype=compute)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    return value, grad, student.new_empty((), dtype=compute)


register_fake("nd_loss", _fake)
register_fake("nd_loss_backward", lambda up, norm, s, *_: torch.empty_like(s))


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(5, 16), make(5, 16), make(4, 16), torch.tensor([0, 1, 2, 3, 0])], {}
