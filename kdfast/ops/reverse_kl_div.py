"""KL(q || p): the mode-seeking direction, as MiniLLM and GKD use it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops._divergence import divergence, reference_rows, register_fakes


def reverse_kl_div_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: sum over classes of q (log q - log p), 0 where q = 0."""

    def row(log_q: Tensor, log_p: Tensor) -> Tensor:
        possible = log_q > -torch.inf
        return (log_q.exp() * torch.where(possible, log_q - log_p, 0)).sum(-1)

    return reference_rows(
        row, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def reverse_kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(q || p) of q = softmax(student / T) and p = softmax(teacher / T), from raw logits.

    Gu et al. 2024 (MiniLLM), eq. 2.

    A class that is possible for the student alone makes its row's value +inf; that row's gradient is then 0.

    Shapes, dtypes, `temperature`, `dim`, `mask`, `scale_t2`, `reduction`, the result and the errors are those
    of kdfast.functional.kl_div.
    """
    return divergence(
        "reverse_kl_div", reverse_kl_div_reference, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


register_fakes("reverse_kl_div")
