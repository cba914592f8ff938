"""Decoupled knowledge distillation (Zhao et al. 2022): KL split into the target's share and the rest's."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import INF, compute_type, dot_possible, keep, log_sum_exp, possible, reduce_rows
from kdfast.ops._index import checked
from kdfast.ops._row_loss import register_fakes, row_loss


def dkd_loss_reference(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: str = "batchmean",
) -> Tensor:
    """The definition: T^2 (alpha KL(P || Q) + beta KL(p' || q')).

    P, Q: the probabilities of (target, every other class together); p', q': softmaxes over the other classes.
    """
    compute = compute_type(student, teacher)
    s, t = student.to(compute), teacher.detach().to(compute)
    counted = possible(s) & possible(t)
    target = checked("target", target, s.size(-1)).unsqueeze(-1)
    (log_q, rest_q), (log_p, rest_p) = (_split(keep(counted, x) / temperature, target) for x in (s, t))
    of_target = dot_possible(log_p.exp(), log_p - log_q)
    both = possible(rest_q) & possible(rest_p)
    of_rest = _kl_of_rest(keep(both, rest_q), keep(both, rest_p))
    value = temperature**2 * (alpha * of_target + beta * torch.where(both, of_rest, 0))
    value = torch.where(counted, value, 0)
    return reduce_rows(value, counted.to(compute), reduction, student.size(0))


def _split(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log-probabilities of (target, rest) [..., 2], and the logits without the target's [..., C]."""
    rest = x.scatter(-1, target, -INF)
    pair = torch.stack((x.gather(-1, target).squeeze(-1), log_sum_exp(rest)), -1)
    return pair.log_softmax(-1), rest


def _kl_of_rest(rest_q: Tensor, rest_p: Tensor) -> Tensor:
    log_q, log_p = rest_q.log_softmax(-1), rest_p.log_softmax(-1)
    return dot_possible(log_p.exp(), torch.where(log_p == -INF, 0, log_p) - log_q)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    reduction: str = "batchmean",
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), decoupled knowledge distillation (Zhao et al. 2022, eq. 7), from raw
    logits.

    TCKD is the KL divergence between the two-way distributions (target, all other classes); NCKD between the
    softmaxes over the other classes. Computed without subtracting probabilities from 1, so a confident
    student gives a finite loss where the published code gives infinity. With two classes NCKD is 0.

    Args:
        student, teacher: logits [..., C]; classes are the last dimension. The student gets the gradient.
        target: class numbers [...], an integer tensor.
        alpha, beta: weights of TCKD and NCKD.
        temperature: T > 0.
        reduction: as in kdfast.functional.kl_div.

    Returns:
        float32 (float64 if an input is float64), 0-d or [...]. -inf logits are classes that cannot occur, as
        in kl_div.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs; on the CPU, ValueError
    for a target that is no class.
    """
    _check.logits_pair(student, teacher, -1)
    _check.class_index("target", target, student.shape[:-1], "student", student)
    alpha, beta = _check.finite("alpha", alpha), _check.finite("beta", beta)
    temperature = _check.positive("temperature", temperature)
    _check.reduction(reduction)
    kernels = backend.of(student, "dkd_loss")
    if kernels != "reference":
        return row_loss(
            "dkd_loss", kernels, student,
            teacher=teacher, index=target, dim=(student.dim() - 1,), reduction=reduction,
            temperature=temperature, scale=temperature**2, a=alpha, b=beta,
        )[0]  # fmt: skip
    return dkd_loss_reference(
        student, teacher, target, alpha=alpha, beta=beta, temperature=temperature, reduction=reduction
    )


register_fakes("dkd_loss")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    student, teacher = (torch.randn(5, 33, generator=generator) for _ in range(2))
    target = torch.randint(0, 33, (5,), generator=generator)
    return [student, teacher, target], {}
