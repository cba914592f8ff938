"""Skew KL divergence (Ko et al. 2024, DistiLLM): KL to a mixture that the teacher shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._divergence import divergence, reference_rows, register_fakes


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


def skew_kl_div_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    lam: float = 0.1,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: KL(p || m), m = lam p + (1 - lam) q."""

    def row(log_q: Tensor, log_p: Tensor) -> Tensor:
        p = log_p.exp()
        log_m = torch.logaddexp(log_p + _log(lam), log_q + _log(1 - lam))
        return (p * torch.where(p > 0, log_p - log_m, 0)).sum(-1)

    return reference_rows(
        row, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def skew_kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    lam: float = 0.1,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(p || lam p + (1 - lam) q), from raw logits (Ko et al. 2024, eq. 4).

    lam in (0, 1). Always finite: at most -log(lam).

    Shapes, dtypes, `temperature`, `dim`, `mask`, `scale_t2`, `reduction`, the result and the errors are those
    of kdfast.functional.kl_div.
    """
    lam = _check.lam(lam)
    return divergence(
        "skew_kl_div", skew_kl_div_reference, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
        param=("lam", lam),
    )  # fmt: skip


register_fakes("skew_kl_div")
