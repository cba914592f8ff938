"""The divergences of rows whose classes lie on several ranks, in plain PyTorch: see kdfast.vocab_parallel.

A class joins the all-reduced sums with its share of the value and its score v; the gradient is
q (v - sum q v). Where one class has nearly all of q, its q - p and score are treated as in
csrc/common/divergence.h.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdfast.ops._definition import INF, compute_type
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable

_NEAR = 0.25
LEAST_PEAK = 1 - 1 / 16


def _phi(u: Tensor) -> Tensor:
    """expm1(u) - u, by its series near 0."""
    series, term = torch.zeros_like(u), u * u / 2
    for i in range(3, 18):
        series, term = series + term, term * u / i
    return torch.where(u.abs() <= 0.5, series, torch.expm1(u) - u)


def over_ranks(x: Tensor, op: Any, group: Any) -> Tensor:
    x = x.contiguous()
    dist.all_reduce(x, op, group)
    return x


class ShardedDivergence(Function):
    """Row values and which rows count, from this rank's classes; the gradient of this rank's student."""

    @staticmethod
    def forward(ctx, student, teacher, name, param, temperature, group):
        compute = compute_type(student, teacher)
        s, t = student.to(compute), teacher.to(compute)
        counted, p, q, r, d = _elements(s, t, temperature, group)
        is_peak, peak, r, d = _peaks((t - s) / temperature, counted, p, q, r, d, group)
        if name == "kl_div":
            value, gradient = over_ranks(kl_terms(p, q, r, d).sum(-1), dist.ReduceOp.SUM, group), d
        else:
            value, score = _FORMULAS[name](p, q, r, d, param)
            score = torch.where(q != 0, score, 0)  # what nothing multiplies may be infinite
            center = _FORMULAS[name](*peak, param)[1]
            known = center.isfinite()
            score = torch.where(is_peak & known, 0, score - torch.where(known, center, 0))
            sums = torch.stack((value.sum(-1), (q * score).sum(-1)))
            value, mean_score = over_ranks(sums, dist.ReduceOp.SUM, group)
            possible = (q != 0) & (value != INF).unsqueeze(-1)
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


def kl_terms(p: Tensor, q: Tensor, r: Tensor, d: Tensor) -> Tensor:
    """p phi(-r) for each class, r = log p/q and d = q - p; q where p = 0, +inf where only q cannot occur."""
    near = r.abs() <= 0.5
    value = torch.where(near, p * _phi(torch.where(near, -r, 0)), d + p * torch.where(near, 0, r))
    return torch.where(r == INF, INF, torch.where(p == 0, q, value))


def _reverse_kl(p: Tensor, q: Tensor, r: Tensor, d: Tensor, _: float) -> tuple[Tensor, Tensor]:
    return kl_terms(q, p, -r, -d), -r


def _js(p: Tensor, q: Tensor, r: Tensor, d: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    if beta in (0, 1):
        return 0 * d, 0 * d
    u, w, m = _mixture(p, q, r, beta)
    return beta * _bregman(p, u, m - p) + (1 - beta) * _bregman(q, w, m - q), -(1 - beta) * w


def _skew_kl(p: Tensor, q: Tensor, r: Tensor, d: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    u, _, m = _mixture(p, q, r, lam)
    return _bregman(p, u, m - p), -(1 - lam) * torch.expm1(-u)


def _tv(p: Tensor, q: Tensor, r: Tensor, d: Tensor, _: float) -> tuple[Tensor, Tensor]:
    return d.abs() / 2, -r.sign() / 2


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


def _peaks(
    gap: Tensor, counted: Tensor, p: Tensor, q: Tensor, r: Tensor, d: Tensor, group: Any
) -> tuple[Tensor, tuple[Tensor, ...], Tensor, Tensor]:
    """Where a class has nearly all of q: which that is, the peaks' p, q, r and d [rows, 1] (NaN for rows that
    have none), and r and d with the peaks' own in place of what cancels there."""
    is_peak = counted.unsqueeze(-1) & (q > LEAST_PEAK)
    sums = torch.stack([torch.where(is_peak, x, y).sum(-1) for x, y in ((0, -d), (r, 0), (q, 0), (gap, 0))])
    change, ratio, peak_q, peak_gap = over_ranks(sums, dist.ReduceOp.SUM, group).unsqueeze(-1)
    # Where they are close, log p/q is known from q - p, and the other classes' from how far their t - s is
    # from the peak's; elsewhere they are known as they are.
    close = (peak_q > 0) & (change.abs() < 0.25)
    ratio = torch.where(close, -torch.log1p(torch.where(close, change / (peak_q - change), 0)), ratio)
    r = torch.where(close & gap.isfinite(), gap - peak_gap + ratio, r)
    peak = tuple(torch.where(peak_q > 0, x, float("nan")) for x in (peak_q - change, peak_q, ratio, change))
    return is_peak, peak, torch.where(is_peak, ratio, r), torch.where(is_peak, change, d)


def _elements(s: Tensor, t: Tensor, temperature: float, group: Any) -> tuple[Tensor, ...]:
    """Which rows count, and p, q, r = log p/q, q - p of this rank's classes."""
    top = over_ranks(torch.stack((s.amax(-1), t.amax(-1))), dist.ReduceOp.MAX, group)
    counted = (top != -INF).all(0)
    s_max, t_max = (torch.where(counted, x, 0).unsqueeze(-1) for x in top)
    neither = (s == -INF) & (t == -INF)
    gap = torch.where(neither, 0, t - s)
    # One shift for all ranks: any class's gap serves where the rows are near.
    shift = over_ranks(torch.where(gap.isfinite(), gap, -INF).amax(-1), dist.ReduceOp.MAX, group)
    shift = torch.where(shift.isfinite(), shift, 0).unsqueeze(-1)
    difference = torch.where(neither, 0, (gap - shift) / temperature)
    far = over_ranks(difference.abs().amax(-1), dist.ReduceOp.MAX, group).unsqueeze(-1) > _NEAR
    e_s, e_t = ((x - m).div(temperature).exp() for x, m in ((s, s_max), (t, t_max)))
    excess = e_s * torch.expm1(difference.clamp(-_NEAR, _NEAR))
    sums = over_ranks(torch.stack((e_s.sum(-1), e_t.sum(-1), excess.sum(-1))), dist.ReduceOp.SUM, group)
    s_sum, t_sum, excess = (torch.where(counted, x, 1).unsqueeze(-1) for x in sums)
    plain = torch.where(neither, 0, (t - t_max) / temperature - (s - s_max) / temperature) - (
        t_sum.log() - s_sum.log()
    )
    r = torch.where(far, plain, difference - torch.log1p(excess / s_sum))
    r = torch.where(neither, 0, r)
    p, q = e_t / t_sum, e_s / s_sum
    return counted, p, q, r, torch.where(far, q - p, p * torch.expm1(-r))
