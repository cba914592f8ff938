"""Cross entropy of the student's softmax against given probabilities, which need not sum to 1."""

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
from kdfast.ops._row_loss import register_fakes, row_loss


def soft_cross_entropy_reference(
    student: Tensor,
    teacher_probs: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: -sum over classes of p log q, 0 where p = 0."""
    compute = compute_type(student, teacher_probs)
    s, p = (classes_last(x.to(compute), dim) for x in (student, teacher_probs.detach()))
    weight = row_weight(mask, s)
    counted = possible(s) & (weight != 0)
    log_q = (keep(counted, s) / temperature).log_softmax(-1)
    value = -dot_possible(keep(counted, p), log_q) * (temperature**2 if scale_t2 else 1)
    weight = torch.where(counted, weight, 0)
    return reduce_rows(value * weight, weight, reduction, student.size(0))


def soft_cross_entropy(
    student: Tensor,
    teacher_probs: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """-sum p log softmax(student / T) against given probabilities p, from raw student logits.

    The gradient is (q sum(p) - p) / T (times T^2), also where p does not sum to 1: the teacher's truncated or
    smoothed probabilities, or several teachers' sum.

    Args:
        student: logits of any shape and strides; float64, float32, bfloat16 or float16. Gets the gradient.
        teacher_probs: p >= 0 of the same shape, at the temperature they are meant at; a constant.
        temperature, dim, mask, scale_t2, reduction: as in kdfast.functional.kl_div.

    Returns:
        float32 (float64 if an input is float64), 0-d or one value per row. A class with p = 0 adds nothing; p
        > 0 on a class whose student logit is -inf makes its row +inf, with a finite gradient. A row whose
        student logits are all -inf is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2
    (soft targets).
    """
    if hasattr(student, "device_mesh"):
        return of_shards(
            "soft_cross_entropy", student, teacher_probs,
            dim=dim, temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
        )  # fmt: skip
    dims = _check.logits_pair(student, teacher_probs, dim, "teacher_probs")
    temperature = _check.positive("temperature", temperature)
    _check.flag("scale_t2", scale_t2)
    _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, [n for d, n in enumerate(student.shape) if d not in dims], student)
    kernels = backend.of(student, "soft_cross_entropy")
    if kernels != "reference":
        return row_loss(
            "soft_cross_entropy", kernels, student,
            teacher=teacher_probs, dim=dims, mask=mask, reduction=reduction, temperature=temperature,
            scale=temperature**2 if scale_t2 else 1.0,
        )[0]  # fmt: skip
    return soft_cross_entropy_reference(
        student, teacher_probs,
        temperature=temperature, dim=dims, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


register_fakes("soft_cross_entropy")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    student, teacher = (torch.randn(5, 33, generator=generator) for _ in range(2))
    return [student, teacher.softmax(-1)], {}
