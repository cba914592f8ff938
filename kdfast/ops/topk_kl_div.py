"""KL divergence from a sparse teacher: the log-probabilities of its k largest classes."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import (
    INF,
    compute_type,
    dot_possible,
    keep,
    log_sum_exp,
    possible,
    reduce_rows,
    row_weight,
)
from kdfast.ops._divergence import of_shards
from kdfast.ops._index import checked
from kdfast.ops._row_loss import register_fakes, row_loss

TAILS = ("bucket", "renormalize")
ROUNDING = 8  # units in the last place of 1: a tail with less mass holds nothing but rounding errors


def topk_kl_div_reference(
    student: Tensor,
    teacher_log_probs: Tensor,
    teacher_indices: Tensor,
    *,
    temperature: float = 1.0,
    tail: str = "bucket",
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: KL(p || q) over the k classes and one more that holds all others ("bucket"), or of p
    divided by its sum against the student's whole softmax ("renormalize")."""
    compute = compute_type(student, teacher_log_probs)
    s, log_p = student.to(compute), teacher_log_probs.detach().to(compute)
    weight = row_weight(mask, s)
    counted = possible(s) & possible(log_p) & (weight != 0)
    index = checked(
        "teacher_indices", teacher_indices, s.size(-1), (weight != 0).unsqueeze(-1).expand_as(log_p)
    )
    log_p = torch.where(counted.unsqueeze(-1), log_p, 0)
    log_q = (keep(counted, s) / temperature).log_softmax(-1)
    of_classes = log_q.gather(-1, index)
    if tail == "renormalize" or log_p.size(-1) == s.size(-1):  # all classes: no tail
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        value = dot_possible(log_p.exp(), log_p - of_classes)
    else:
        rest = log_q.scatter(-1, index, -INF)
        value = dot_possible(log_p.exp(), log_p - of_classes) + _tail(log_p, rest, teacher_log_probs.dtype)
    weight = torch.where(counted, weight, 0)
    value = torch.where(counted, value, 0) * weight * (temperature**2 if scale_t2 else 1)
    return reduce_rows(value, weight, reduction, student.size(0))


def _tail(log_p: Tensor, log_q: Tensor, given: torch.dtype) -> Tensor:
    """p_r log(p_r / q_r): the teacher's mass that is left, and the sum of the student's other classes
    [rows..., C].
    """
    mass = -torch.expm1(log_p.logsumexp(-1))
    log_q = log_sum_exp(log_q)
    # What rounding alone can leave of a teacher whose k classes are all there are is no mass.
    rounding = torch.where(log_q == -INF, torch.finfo(given).eps, torch.finfo(log_p.dtype).eps)
    mass = torch.where(mass > ROUNDING * rounding, mass, 0)
    return torch.where(mass > 0, mass * (torch.where(mass > 0, mass, 1).log() - log_q), 0)


def topk_kl_div(
    student: Tensor,
    teacher_log_probs: Tensor,
    teacher_indices: Tensor,
    *,
    temperature: float = 1.0,
    tail: str = "bucket",
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(p || q) of a teacher known by its k largest log-probabilities and q = softmax(student / T).

    The gradient reaches every class of the student, also those that are not among the k:

    * tail="bucket": the other classes form one class, with p_r = 1 - sum(p) and q_r = the sum of the
      student's probabilities there. A divergence of k + 1 classes: never negative; gradient q - p on the k
      and q (1 - p_r / q_r) elsewhere, divided by T.
    * tail="renormalize": p is divided by its sum and the teacher is 0 elsewhere; gradient q - p on the k and
      q elsewhere.

    Args:
        student: logits [..., C]; classes are the last dimension. Gets the gradient.
        teacher_log_probs: [..., k] floats: log-probabilities of the whole teacher softmax at temperature T,
            as kdfast.TeacherCache keeps them; a constant. -inf: a class that cannot occur.
        teacher_indices: [..., k] integers: their classes, distinct within a row.
        temperature: T > 0, the student's; the teacher's log-probabilities are at T already.
        tail: "bucket" or "renormalize".
        mask, scale_t2, reduction: as in kdfast.functional.kl_div.

    Returns:
        float32 (float64 if an input is float64), 0-d or one value per row. p > 0 on a class whose student
        logit is -inf makes its row +inf, with the finite gradient -p. A row of -inf alone, on either side, is
        0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs; on the CPU, ValueError
    for an index that is no class.

    The KL divergence of Hinton, Vinyals & Dean, 2015, arXiv 1503.02531, of which the bucket is a class.
    """
    if hasattr(student, "device_mesh"):
        return of_shards(
            "topk_kl_div", student, teacher_log_probs, teacher_indices,
            temperature=temperature, tail=tail, mask=mask, scale_t2=scale_t2, reduction=reduction,
        )  # fmt: skip
    _check.logits("student", student)
    _check.floating("teacher_log_probs", teacher_log_probs)
    _check_sparse(student, teacher_log_probs)
    _check.class_index(
        "teacher_indices", teacher_indices, teacher_log_probs.shape, "teacher_log_probs", teacher_log_probs
    )
    temperature = _check.positive("temperature", temperature)
    if tail not in TAILS:
        raise ValueError(f"tail must be one of {', '.join(TAILS)}, got {tail!r}")
    _check.flag("scale_t2", scale_t2)
    _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, student.shape[:-1], student)
    kernels = backend.of(student, "topk_kl_div")
    if kernels != "reference":
        given, compute = teacher_log_probs.dtype, compute_type(student, teacher_log_probs)
        whole = teacher_log_probs.size(-1) == student.size(-1)
        return row_loss(
            "topk_kl_div", kernels, student,
            index=teacher_indices, sparse=teacher_log_probs, dim=(student.dim() - 1,), mask=mask,
            reduction=reduction, temperature=temperature, scale=temperature**2 if scale_t2 else 1.0,
            a=float(whole or tail == "renormalize"), b=ROUNDING * torch.finfo(compute).eps,
            c=ROUNDING * torch.finfo(given).eps,
        )[0]  # fmt: skip
    return topk_kl_div_reference(
        student, teacher_log_probs, teacher_indices,
        temperature=temperature, tail=tail, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def _check_sparse(student: Tensor, log_probs: Tensor) -> None:
    """teacher_log_probs [..., k] beside student [..., C]: 1 <= k <= C."""
    if log_probs.dim() != student.dim() or log_probs.shape[:-1] != student.shape[:-1]:
        rows = "".join(f"{n}, " for n in student.shape[:-1])
        raise ValueError(
            f"teacher_log_probs must have shape ({rows}k), to fit student of shape "
            f"{tuple(student.shape)}, got {tuple(log_probs.shape)}"
        )
    if not 1 <= log_probs.size(-1) <= student.size(-1):
        raise ValueError(
            f"teacher_log_probs must hold between 1 and {student.size(-1)} classes (the student's), got "
            f"{log_probs.size(-1)}"
        )
    _check.same_device("student", student, "teacher_log_probs", log_probs)


register_fakes("topk_kl_div")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    student, teacher = (torch.randn(5, 33, generator=generator) for _ in range(2))
    return [student, *teacher.log_softmax(-1).topk(4)], {}
