"""The KL divergence from a sparse teacher, of logits whose classes are spread over ranks: see
kdfast.vocab_parallel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import INF, compute_type, possible
from kdfast.ops._sharded_rows import KLTerms, Picked, class_range
from kdfast.ops.topk_kl_div import ROUNDING, TAILS
from kdfast.vocab_parallel._shards import check_numbers, finish, possible_anywhere, rows_of, sharded, whole


def topk_kl_div(
    student: Tensor,
    teacher_log_probs: Tensor,
    teacher_indices: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    tail: str = "bucket",
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(p || q) of a teacher known by its k largest log-probabilities and q = softmax(student / T), of
    logits whose last dimension, the classes, is spread over the ranks of `group`.

    Args:
        student: this rank's logits [..., C_rank], any float dtype and strides, or a DTensor sharded on its
            last dimension. Gets the gradient, on every class.
        teacher_log_probs: [..., k] floats at temperature T, the same on every rank; a constant. -inf: a class
            that cannot occur.
        teacher_indices: [..., k] integers, distinct within a row: class numbers among the classes of all
            ranks in their order, the same on every rank.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the student's.
        tail: "bucket" makes one class of all others, with p_r = 1 - sum(p); "renormalize" divides p by its
            sum.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        float32 (float64 if an input is), 0-d or [...], the same on every rank; never negative. p > 0 on a
        class whose student logit is -inf makes its row +inf, with a finite gradient; a row of -inf alone, on
        either side, is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input; on the CPU, ValueError for an index that is no
    class.

    The KL divergence of Hinton, Vinyals & Dean, 2015, arXiv 1503.02531, of which the bucket is a class.
    """
    student, own_group = sharded(student, "student")
    group = group or own_group
    log_p, index = whole(teacher_log_probs), whole(teacher_indices)
    _check.logits("student", student)
    _check.floating("teacher_log_probs", log_p)
    if log_p.dim() != student.dim() or log_p.shape[:-1] != student.shape[:-1] or log_p.size(-1) < 1:
        raise ValueError(
            f"teacher_log_probs must have the student's rows {tuple(student.shape[:-1])} and k >= 1 classes, "
            f"got shape {tuple(log_p.shape)}"
        )
    _check.class_index("teacher_indices", index, log_p.shape, "teacher_log_probs", log_p)
    temperature = _check.positive("temperature", temperature)
    if tail not in TAILS:
        raise ValueError(f"tail must be one of {', '.join(TAILS)}, got {tail!r}")
    _check.flag("scale_t2", scale_t2)
    compute, given = compute_type(student, log_p), log_p.dtype
    rows = rows_of(student, whole(mask), reduction, compute)
    wide, log_p = student.to(compute), log_p.detach().to(compute)
    first, classes = class_range(student.size(-1), group, student.device)
    check_numbers("teacher_indices", index, classes, (rows != 0).unsqueeze(-1))
    log_q, log_rest = Picked.apply(wide, index, first, temperature, group)
    counted = possible_anywhere(wide, group) & possible(log_p) & (rows != 0)
    log_p = torch.where(counted.unsqueeze(-1), log_p, 0)
    sum_p = log_p.logsumexp(-1, keepdim=True)
    renormalize = (classes == index.size(-1)) | (tail == "renormalize")
    # What rounding alone can leave of a teacher whose k classes are all there are is no mass.
    rounding = torch.where(log_rest == -INF, torch.finfo(given).eps, torch.finfo(compute).eps)
    mass = -torch.expm1(sum_p.squeeze(-1))
    log_mass = torch.where(renormalize | (mass <= ROUNDING * rounding), -INF, mass.clamp(min=0).log())
    log_p = log_p - torch.where(renormalize, sum_p, 0)
    both = torch.cat((log_p, log_mass.unsqueeze(-1)), -1), torch.cat((log_q, log_rest.unsqueeze(-1)), -1)
    value = KLTerms.apply(*both) * (temperature**2 if scale_t2 else 1)
    return finish(value, counted, rows, reduction, student.size(0))
