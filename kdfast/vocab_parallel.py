"""Divergences of logits whose classes are spread over ranks (tensor parallelism): no rank sees a whole row.

    loss = kdfast.vocab_parallel.kl_div(student_shard, teacher_shard, group=group)

Every rank calls with its own classes and gets the same loss, and the gradient of its own shard. What travels
are a few numbers a row: two maxima, three sums of exponentials (pass 1 of csrc/common/divergence.h, whose
parts merge by maximum and addition), then the value and the formula's own sum. A DTensor sharded on its class
dimension is taken as it is: its mesh dimension is the group, and kdfast.functional.kl_div comes here by
itself.

Accuracy is that of the fused kernels: log sums of student and teacher are taken from each other by log1p of a
sum of differences where the two are near.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import INF, compute_type, reduce_rows, row_weight
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable

_NEAR = 0.25


def _phi(u: Tensor) -> Tensor:
    """expm1(u) - u, by its series near 0."""
    series, term = torch.zeros_like(u), u * u / 2
    for i in range(3, 18):
        series, term = series + term, term * u / i
    return torch.where(u.abs() <= 0.5, series, torch.expm1(u) - u)


def _all(x: Tensor, op: Any, group: Any) -> Tensor:
    x = x.contiguous()
    dist.all_reduce(x, op, group)
    return x


class _Divergence(Function):
    @staticmethod
    def forward(ctx, student, teacher, name, param, temperature, group):
        compute = compute_type(student, teacher)
        s, t = student.to(compute), teacher.to(compute)
        counted, p, q, r, d = _elements(s, t, temperature, group)
        if name == "kl_div":
            value, gradient = _all(_kl(p, q, r, d).sum(-1), dist.ReduceOp.SUM, group), d
        else:
            value, score = _FORMULAS[name](p, q, r, d, param)
            score = torch.where(q > 0, score, 0)  # what nothing multiplies may be infinite
            sums = torch.stack((value.sum(-1), (q * score).sum(-1)))
            value, mean_score = _all(sums, dist.ReduceOp.SUM, group)
            possible = (q > 0) & (value != INF).unsqueeze(-1)
            gradient = torch.where(possible, q * (score - mean_score.unsqueeze(-1)), 0)
        ctx.name = f"vocab_parallel.{name}"
        ctx.save_for_backward(torch.where(counted.unsqueeze(-1), gradient / temperature, 0))
        ctx.dtype = student.dtype
        ctx.mark_non_differentiable(counted)
        return torch.where(counted, value, 0), counted

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        (gradient,) = ctx.saved_tensors
        factor = upstream.unsqueeze(-1)
        grad = torch.where(factor == 0, 0, gradient * factor)  # a dropped row may hold NaN
        return grad.to(ctx.dtype), *(None,) * 5


def _kl(p: Tensor, q: Tensor, r: Tensor, d: Tensor) -> Tensor:
    """p phi(-r) for each class, r = log p/q and d = q - p; q where p = 0, +inf where q = 0 < p."""
    near = r.abs() <= 0.5
    value = torch.where(near, p * _phi(torch.where(near, -r, 0)), d + p * torch.where(near, 0, r))
    return torch.where(p == 0, q, torch.where((q == 0) & (r == INF), INF, value))


def _reverse_kl(p: Tensor, q: Tensor, r: Tensor, d: Tensor, _: float) -> tuple[Tensor, Tensor]:
    return _kl(q, p, -r, -d), -r


def _js(p: Tensor, q: Tensor, r: Tensor, d: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    u, w, m = _mixture(p, q, r, beta)
    return beta * _bregman(p, u, m - p) + (1 - beta) * _bregman(q, w, m - q), -(1 - beta) * w


def _skew_kl(p: Tensor, q: Tensor, r: Tensor, d: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    u, _, m = _mixture(p, q, r, lam)
    return _bregman(p, u, m - p), -(1 - lam) * torch.expm1(-u)


def _tv(p: Tensor, q: Tensor, r: Tensor, d: Tensor, _: float) -> tuple[Tensor, Tensor]:
    return d.abs() / 2, d.sign() / 2


# name -> each class's share of the value, and its score v: the gradient is q (v - sum q v).
_FORMULAS = {"reverse_kl_div": _reverse_kl, "js_div": _js, "skew_kl_div": _skew_kl, "tv_dist": _tv}


def _mixture(p: Tensor, q: Tensor, r: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """log m/p, log m/q and m, for m = share p + (1 - share) q."""
    near = r.abs() <= 0.5
    u = torch.log1p((1 - share) * torch.expm1(-torch.where(near, r, 0)))
    log_p, log_q = (torch.tensor(x, dtype=r.dtype, device=r.device).log() for x in (share, 1 - share))
    far_u, far_w = torch.logaddexp(log_p, log_q - r), torch.logaddexp(log_p + r, log_q)
    return torch.where(near, u, far_u), torch.where(near, u + r, far_w), share * p + (1 - share) * q


def _bregman(weight: Tensor, u: Tensor, change: Tensor) -> Tensor:
    """weight phi(u), where change = weight expm1(u); the change alone where the weight is 0."""
    near = u.abs() <= 0.5
    far = change - weight * torch.where(near | (weight == 0), 0, u)
    return torch.where(near, weight * _phi(torch.where(near, u, 0)), far)


def _elements(s: Tensor, t: Tensor, temperature: float, group: Any) -> tuple[Tensor, ...]:
    """Which rows count, and p, q, r = log p/q, q - p of this rank's classes."""
    top = _all(torch.stack((s.amax(-1), t.amax(-1))), dist.ReduceOp.MAX, group)
    counted = (top != -INF).all(0)
    s_max, t_max = (torch.where(counted, x, 0).unsqueeze(-1) for x in top)
    neither = (s == -INF) & (t == -INF)
    gap = torch.where(neither, 0, t - s)
    # One shift for all ranks: any class's gap serves where the rows are near.
    shift = _all(torch.where(gap.isfinite(), gap, -INF).amax(-1), dist.ReduceOp.MAX, group)
    shift = torch.where(shift.isfinite(), shift, 0).unsqueeze(-1)
    difference = torch.where(neither, 0, (gap - shift) / temperature)
    far = _all(difference.abs().amax(-1), dist.ReduceOp.MAX, group).unsqueeze(-1) > _NEAR
    e_s, e_t = ((x - m).div(temperature).exp() for x, m in ((s, s_max), (t, t_max)))
    excess = e_s * torch.expm1(difference.clamp(-_NEAR, _NEAR))
    sums = _all(torch.stack((e_s.sum(-1), e_t.sum(-1), excess.sum(-1))), dist.ReduceOp.SUM, group)
    s_sum, t_sum, excess = (torch.where(counted, x, 1).unsqueeze(-1) for x in sums)
    plain = torch.where(neither, 0, (t - t_max) / temperature - (s - s_max) / temperature) - (
        t_sum.log() - s_sum.log()
    )
    r = torch.where(far, plain, difference - torch.log1p(excess / s_sum))
    r = torch.where(neither, 0, r)
    p, q = e_t / t_sum, e_s / s_sum
    return counted, p, q, r, torch.where(far, q - p, p * torch.expm1(-r))


def _sharded(x: Tensor, name: str) -> tuple[Tensor, Any]:
    """A DTensor's local classes and the group that shares its rows; other tensors as they are."""
    from torch.distributed.tensor import DTensor

    if not isinstance(x, DTensor):
        return x, None
    sharded = [i for i, placement in enumerate(x.placements) if placement.is_shard()]
    if len(sharded) != 1 or x.placements[sharded[0]].dim % x.dim() != x.dim() - 1:
        raise ValueError(f"{name} must be sharded on its last dimension alone, got {x.placements}")
    return x.to_local(), x.device_mesh.get_group(sharded[0])


def _divergence(
    name: str, student: Tensor, teacher: Tensor, group: Any, param: float = 0.0, **options: Any
) -> Tensor:
    _check.tensor("student", student)
    _check.tensor("teacher", teacher)
    (student, mesh_group), (teacher, _) = _sharded(student, "student"), _sharded(teacher, "teacher")
    _check.logits_pair(student, teacher, -1)
    temperature = _check.positive("temperature", options["temperature"])
    _check.flag("scale_t2", options["scale_t2"])
    _check.reduction(options["reduction"])
    mask = options["mask"]
    if mask is not None:
        _check.row_mask(mask, student.shape[:-1], student)
    weight = row_weight(mask, student.to(compute_type(student, teacher)))
    value, counted = _Divergence.apply(
        student, teacher.detach(), name, param, temperature, group or mesh_group
    )
    weight = torch.where(counted, weight, 0)
    value = torch.where(weight != 0, value, 0) * weight * (temperature**2 if options["scale_t2"] else 1)
    return reduce_rows(value, weight, options["reduction"], student.size(0))


def kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """kdfast.functional.kl_div of logits whose last dimension, the classes, is spread over the ranks of
    `group`.

    Args:
        student, teacher: this rank's classes [..., C_rank], the same classes on both sides, or DTensors
            sharded on their last dimension. Ranks may hold different numbers of classes, at least one each.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature, mask, scale_t2, reduction: as in kdfast.functional.kl_div, the same on every rank.

    Returns:
        The loss of whole rows, the same on every rank. Its gradient reaches this rank's student classes.
    """
    return _divergence(
        "kl_div",
        student,
        teacher,
        group,
        temperature=temperature,
        mask=mask,
        scale_t2=scale_t2,
        reduction=reduction,
    )


def reverse_kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """kdfast.functional.reverse_kl_div of logits whose classes are spread over ranks: see kl_div."""
    return _divergence(
        "reverse_kl_div", student, teacher, group,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def js_div(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.5,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """kdfast.functional.js_div of logits whose classes are spread over ranks: see kl_div."""
    beta = _check.beta(beta)
    return _divergence(
        "js_div", student, teacher, group, beta,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def skew_kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    lam: float = 0.1,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """kdfast.functional.skew_kl_div of logits whose classes are spread over ranks: see kl_div."""
    lam = _check.lam(lam)
    return _divergence(
        "skew_kl_div", student, teacher, group, lam,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def tv_dist(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """kdfast.functional.tv_dist of logits whose classes are spread over ranks: see kl_div."""
    return _divergence(
        "tv_dist", student, teacher, group,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip
