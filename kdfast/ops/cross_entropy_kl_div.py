"""Hard cross entropy and KL(p || q) of one student: the two terms of Hinton et al. (2015), together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import (
    classes_last,
    compute_type,
    dot_possible,
    keep,
    possible,
    reduce_rows,
    row_weight,
)
from kdfast.ops._divergence import of_shards
from kdfast.ops._index import checked
from kdfast.ops._row_loss import register_fakes, row_loss


def cross_entropy_kl_div_reference(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """The definition: F.cross_entropy(student, target) and KL(softmax(teacher / T) || softmax(student /
    T)).
    """
    compute = compute_type(student, teacher)
    s, t = (classes_last(x.to(compute), dim) for x in (student, teacher.detach()))
    rows = row_weight(mask, s)
    counted = (target != ignore_index) & (rows != 0)
    target = checked("target", target, s.size(-1), counted)
    counted &= possible(s) & possible(t)
    rows = torch.where(counted, rows, 0)
    s, t = keep(counted, s), keep(counted, t)
    w = (
        torch.ones_like(s[..., :1]).expand_as(s)
        if weight is None
        else weight.detach().to(compute).expand_as(s)
    )
    ce, of_target = _cross_entropy(s.log_softmax(-1), target.unsqueeze(-1), w, label_smoothing)
    log_q, log_p = (s / temperature).log_softmax(-1), (t / temperature).log_softmax(-1)
    kl = dot_possible(log_p.exp(), log_p - log_q) * (temperature**2 if scale_t2 else 1)
    ce, kl = (torch.where(counted, x, 0) * rows for x in (ce, kl))
    batch = student.size(0)
    return reduce_rows(ce, rows, reduction, batch, rows * of_target), reduce_rows(kl, rows, reduction, batch)


def _cross_entropy(log_q: Tensor, target: Tensor, w: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Rows' cross entropy and weight of the target, from log q and class weights [rows..., C]."""
    of_target = w.gather(-1, target).squeeze(-1)
    picked = log_q.gather(-1, target).squeeze(-1)
    ce = -of_target * torch.where(of_target != 0, picked, 0)
    if smoothing:
        ce = (1 - smoothing) * ce - smoothing / log_q.size(-1) * dot_possible(w, log_q)
    return ce, of_target


def cross_entropy_kl_div(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """(ce, kl): F.cross_entropy(student, target) at temperature 1 and kl_div(student, teacher) at T, in one
    pass.

        ce, kl = KF.cross_entropy_kl_div(student, teacher, target, temperature=4.0)
        loss = 0.1 * ce + 0.9 * kl

    Args:
        student, teacher: logits as in kdfast.functional.kl_div; the student gets the gradient of both values.
        target: class numbers, an integer tensor of the student's shape without `dim`.
        temperature: T > 0, of the KL alone.
        dim: the class dimension or dimensions: 1 for images [N, C, H, W].
        label_smoothing, weight: in [0, 1], and one float per class: as in F.cross_entropy, of the
            cross entropy alone.
        ignore_index: a row with this target leaves both values, their gradients and their counts.
        mask: bool or float, one value per row; 0 drops the row from both, other values weigh it in both.
        scale_t2: multiply kl by T^2.
        reduction: "mean" (ce: divided by the sum of mask x weight[target] over counted rows, as in
            F.cross_entropy; kl: by the sum of the mask), "sum", "batchmean" (both divided by student.size(0))
            or "none" (a value per row each).

    Returns:
        Two tensors, float32 (float64 if an input is float64). Rows of -inf and impossible classes as in
        kl_div: a row all of whose logits are -inf on a side leaves both values. An impossible target makes
        its row's ce +inf, with a finite gradient.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs; on the CPU, ValueError
    for a target that is neither ignore_index nor a class.
    """
    if hasattr(student, "device_mesh"):
        return of_shards(
            "cross_entropy_kl_div", student, teacher, target,
            dim=dim, temperature=temperature, label_smoothing=label_smoothing, weight=weight,
            ignore_index=ignore_index, mask=mask, scale_t2=scale_t2, reduction=reduction,
        )  # fmt: skip
    dims = _check.logits_pair(student, teacher, dim)
    row_shape = [n for d, n in enumerate(student.shape) if d not in dims]
    _check.class_index("target", target, row_shape, "student", student)
    temperature = _check.positive("temperature", temperature)
    smoothing = _check.number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    classes = 1
    for d in dims:
        classes *= student.size(d)
    if weight is not None:
        _check.class_weight(weight, classes, "student", student)
    _check.whole_number("ignore_index", ignore_index, -(2**63))
    _check.flag("scale_t2", scale_t2)
    _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, row_shape, student)
    kernels = backend.of(student, "cross_entropy_kl_div")
    if kernels != "reference":
        return row_loss(
            "cross_entropy_kl_div", kernels, student,
            teacher=teacher, index=target, weight=weight, dim=dims, mask=mask, reduction=reduction, outputs=2,
            temperature=temperature, scale=temperature**2 if scale_t2 else 1.0, a=smoothing,
            ignore_index=ignore_index,
        )  # fmt: skip
    return cross_entropy_kl_div_reference(
        student, teacher, target,
        temperature=temperature, dim=dims, label_smoothing=smoothing, weight=weight,
        ignore_index=ignore_index, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


register_fakes("cross_entropy_kl_div", outputs=2, state=9)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    student, teacher = (torch.randn(5, 33, generator=generator) for _ in range(2))
    target = torch.randint(0, 33, (5,), generator=generator)
    return [student, teacher, target], {"temperature": 2.0, "label_smoothing": 0.1}
