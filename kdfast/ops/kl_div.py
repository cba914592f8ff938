"""KL(p || q) between the softmaxes of teacher and student logits: the distillation loss of Hinton et al.
(2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops._divergence import divergence, reference_rows, register_fakes


def kl_div_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: sum over classes of p (log p - log q), 0 where p = 0."""

    def row(log_q: Tensor, log_p: Tensor) -> Tensor:
        possible = log_p > -torch.inf
        return (log_p.exp() * torch.where(possible, log_p - log_q, 0)).sum(-1)

    return reference_rows(
        row, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(p || q) of p = softmax(teacher / T) and q = softmax(student / T), from raw logits.

    As F.kl_div(log_softmax(student / T), softmax(teacher / T)) * T^2 (Hinton et al. 2015, eq. 4 and section
    2.1), but in one pass, computed in float32 (float64 for float64 logits) in a form that is accurate near p
    = q and never negative.

    Args:
        student: logits of any shape and strides; float64, float32, bfloat16 or float16. Gets the gradient.
        teacher: logits of the same shape; a constant. Its dtype may differ.
        temperature: T > 0.
        dim: the class dimension, or a tuple of dimensions that are joined: (2, 3) compares maps.
        mask: bool or float, one value per row (the student's shape without `dim`). 0 drops the row, also from
            the count; other values weigh it.
        scale_t2: multiply by T^2, which keeps the gradient's size independent of T.
        reduction: "none" (one value per row), "sum", "mean" (sum / sum of the counted rows' weights) or
            "batchmean" (sum / student.size(0)).

    Returns:
        float32 (float64 if an input is float64), 0-d or one value per row. A row all of whose logits are -inf
        on a side counts as 0 and is not counted; a class that is possible for the teacher alone makes its row
        +inf.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    return divergence(
        "kl_div", kl_div_reference, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


register_fakes("kl_div")
