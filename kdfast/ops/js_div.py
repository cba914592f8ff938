"""Generalised Jensen-Shannon divergence between the softmaxes of teacher and student (Agarwal et al. 2024,
GKD)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._divergence import divergence, reference_rows, register_fakes


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def js_div_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""

    def row(log_q: Tensor, log_p: Tensor) -> Tensor:
        p, q = log_p.exp(), log_q.exp()
        log_m = torch.logaddexp(log_p + _log(beta), log_q + _log(1 - beta))
        teacher_part = p * torch.where(p > 0, log_p - log_m, 0)
        student_part = q * torch.where(q > 0, log_q - log_m, 0)
        return (beta * teacher_part + (1 - beta) * student_part).sum(-1)

    return reference_rows(
        row, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def js_div(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, from raw logits.

    Agarwal et al. 2024 (GKD), eq. 1. beta in [0, 1] is the teacher's share. At beta = 0 and beta = 1 the
    value is 0, the limit of this definition (it is not scaled to become a KL there).

    Shapes, dtypes, `temperature`, `dim`, `mask`, `scale_t2`, `reduction`, the result and the errors are those
    of kdfast.functional.kl_div.
    """
    beta = _check.beta(beta)
    return divergence(
        "js_div", js_div_reference, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
        param=("beta", beta),
    )  # fmt: skip


register_fakes("js_div")
