"""Total variation distance between the softmaxes of teacher and student (Wen et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdfast.ops._divergence import divergence, reference_rows, register_fakes


def tv_dist_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: half the sum of |p - q|."""

    def row(log_q: Tensor, log_p: Tensor) -> Tensor:
        return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)

    return reference_rows(
        row, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def tv_dist(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    dim: int | Sequence[int] = -1,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """sum |p - q| / 2, from raw logits (Wen et al. 2023, eq. 8). In [0, T^2], and in [0, 1] with
    scale_t2=False.

    The gradient q (sgn(q - p) - sum q sgn(q - p)) / 2 is a difference of two numbers near 1 where one class
    has nearly all of the student's probability: computed in float32, its relative error is then about 1e-7 /
    (1 - max q). float64 logits keep more.

    Shapes, dtypes, `temperature`, `dim`, `mask`, `scale_t2`, `reduction`, the result and the errors are those
    of kdfast.functional.kl_div.
    """
    return divergence(
        "tv_dist", tv_dist_reference, student, teacher,
        temperature=temperature, dim=dim, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


register_fakes("tv_dist")
