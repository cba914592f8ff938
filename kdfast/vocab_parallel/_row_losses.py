"""Losses against targets and probabilities, of logits whose classes are spread over ranks: see
kdfast.vocab_parallel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import INF, compute_type
from kdfast.ops._sharded import ShardedDivergence
from kdfast.ops._sharded_rows import SoftTarget
from kdfast.ops.focal_loss import focal
from kdfast.vocab_parallel._shards import (
    finish,
    of_target_class,
    possible_anywhere,
    rows_of,
    sharded,
    targets_of,
    whole,
)


def cross_entropy_kl_div(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "mean",
) -> tuple[Tensor, Tensor]:
    """(ce, kl): cross entropy of the target at temperature 1 and KL(softmax(teacher / T) || softmax(student /
    T)), of logits whose last dimension, the classes, is spread over the ranks of `group`.

    Args:
        student, teacher: this rank's logits [..., C_rank], any float dtypes and strides, or DTensors sharded
            on their last dimension. Ranks may hold different numbers of classes, at least one each. The
            student gets the gradient of both values.
        target: class numbers [...] among the classes of all ranks in their order, an integer tensor, the same
            on every rank.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, of the KL alone.
        label_smoothing: in [0, 1], of the cross entropy alone.
        weight: a float for each of this rank's classes, [C_rank], or a DTensor sharded like the logits: of
            the cross entropy alone.
        ignore_index: a row with this target leaves both values, their gradients and their counts.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply kl by T^2.
        reduction: "mean" (ce: divided by the sum of mask x weight[target] over counted rows; kl: by the sum
            of the mask), "sum", "batchmean" (both divided by size(0)) or "none" (a value per row each).

    Returns:
        Two tensors, float32 (float64 if a side is), 0-d or [...], the same on every rank. A row all of whose
        logits are -inf on a side leaves both; an impossible target makes its row's ce +inf, with a finite
        gradient.

    Raises TypeError, ValueError or RuntimeError for bad input; on the CPU, ValueError for a target that is
    neither ignore_index nor a class (on a GPU its row's ce is NaN).

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.
    """
    (student, own_group), (teacher, _) = sharded(student, "student"), sharded(teacher, "teacher")
    group = group or own_group
    _check.logits_pair(student, teacher, -1)
    smoothing = _check.number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    temperature = _check.positive("temperature", temperature)
    _check.flag("scale_t2", scale_t2)
    target, weight, rows = targets_of(student, target, weight, ignore_index, whole(mask), reduction)
    compute = compute_type(student, teacher)
    rows = rows.to(compute)
    kl, counted = ShardedDivergence.apply(student, teacher.detach(), "kl_div", 0.0, temperature, group)
    wide = student.to(compute)
    nll, of_target, classes = of_target_class(wide, target, weight, rows != 0, group)
    ce = torch.where(of_target == 0, 0, of_target * nll) * (1 - smoothing) if smoothing < 1 else 0 * nll
    if smoothing:
        every = torch.ones_like(wide) if weight is None else weight.to(compute).expand_as(wide)
        ce = ce + smoothing / classes.to(compute) * SoftTarget.apply(wide, every, 1.0, group)[0]
    kl = kl * (temperature**2 if scale_t2 else 1)
    batch = student.size(0)
    return finish(ce, counted, rows, reduction, batch, of_target), finish(kl, counted, rows, reduction, batch)


def soft_cross_entropy(
    student: Tensor,
    teacher_probs: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """-sum p log softmax(student / T) against given probabilities p, which need not sum to 1, of logits whose
    last dimension, the classes, is spread over the ranks of `group`.

    Args:
        student: this rank's logits [..., C_rank], any float dtype and strides, or a DTensor sharded on its
            last dimension. Gets the gradient, (q sum(p) - p) / T.
        teacher_probs: p >= 0 of the same classes, shaped and sharded like the student; a constant.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the student's.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        float32 (float64 if an input is), 0-d or [...], the same on every rank. p > 0 on a class whose student
        logit is -inf makes its row +inf, with a finite gradient; a row of -inf alone is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2
    (soft targets).
    """
    (student, own_group), (probs, _) = sharded(student, "student"), sharded(teacher_probs, "teacher_probs")
    _check.logits_pair(student, probs, -1, "teacher_probs")
    temperature = _check.positive("temperature", temperature)
    _check.flag("scale_t2", scale_t2)
    rows = rows_of(student, whole(mask), reduction, compute_type(student, probs))
    value, counted = SoftTarget.apply(student, probs.detach(), temperature, group or own_group)
    value = value * (temperature**2 if scale_t2 else 1)
    return finish(value, counted, rows, reduction, student.size(0))


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    group: Any = None,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    weight_in_pt: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """w (1 - p)^gamma (-log p) of the target's probability p and class weight w, of logits whose last
    dimension, the classes, is spread over the ranks of `group`.

    Args:
        logits: this rank's [..., C_rank], any float dtype and strides, or a DTensor sharded on its last
            dimension. Gets the gradient.
        target: class numbers [...] among the classes of all ranks in their order, an integer tensor, the same
            on every rank.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        gamma: focusing exponent, at least 0.
        weight: a float for each of this rank's classes, [C_rank], or a DTensor sharded like the logits.
        weight_in_pt: use p^w for p in the focusing factor.
        ignore_index: rows with this target are 0 and not counted.
        reduction: "mean" (sum / number of counted rows), "sum", "batchmean" (sum / size(0)) or "none".

    Returns:
        float32 (float64 for float64 logits), 0-d or [...], the same on every rank. A row of -inf alone is 0
        and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input; on the CPU, ValueError for a target that is
    neither ignore_index nor a class.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv 1708.02002, eq. 5.
    """
    logits, own_group = sharded(logits, "logits")
    _check.logits("logits", logits)
    gamma = _check.number("gamma", gamma)
    if not 0 <= gamma < INF:
        raise ValueError(f"gamma must be a finite number of at least 0, got {gamma}")
    _check.flag("weight_in_pt", weight_in_pt)
    target, weight, rows = targets_of(logits, target, weight, ignore_index, None, reduction, "logits")
    nll, w, _ = of_target_class(logits, target, weight, rows != 0, group or own_group)
    value = focal(w * nll, gamma) if weight_in_pt else w * focal(nll, gamma)
    counted = possible_anywhere(logits, group or own_group)
    return finish(torch.where(w != 0, value, 0), counted, rows, reduction, logits.size(0))
