"""Rows whose classes lie on several ranks, seen by single classes: the log-probabilities of a few of them and
of all others together; and the cross entropy of given probabilities. See kdfast.vocab_parallel.

No difference of nearly equal numbers is taken: 1 - q of a class is the sum of the others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from kdfast.ops._definition import compute_type
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops._sharded import LEAST_PEAK, kl_terms, over_ranks


def class_range(classes: int, group: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """The number of this rank's first class, and how many classes all ranks have: int64, 0-d."""
    mine = torch.tensor([classes], device=device)
    sizes = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, mine, group)
    every = torch.cat(sizes)
    return every[: dist.get_rank(group)].sum(), every.sum()


def at_classes(x: Tensor, index: Tensor, first: Tensor, group: Any) -> Tensor:
    """Numbers x [C_rank] of this rank's classes, looked up by class number on whichever rank has it."""
    at = index - first
    own = (at >= 0) & (at < x.size(0))
    return over_ranks(torch.where(own, x[torch.where(own, at, 0)], 0), dist.ReduceOp.SUM, group)


def _exponentials(x: Tensor, temperature: float, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows have a possible class; (x - max) / T and its exponential, max being the whole row's."""
    top = over_ranks(x.amax(-1), dist.ReduceOp.MAX, group).unsqueeze(-1)
    counted = top != -torch.inf
    below = torch.where(counted, x - torch.where(counted, top, 0), 0) / temperature
    return counted, below, torch.where(counted, below.exp(), 0)


class Picked(Function):
    """log q [rows..., k] of class numbers `index` [rows..., k], distinct in a row, and log of what all other
    classes have, [rows...]; q = softmax(student [rows..., C_rank] / T). NaN for a number that no rank has.

    A row without a possible class gives 0 and no gradient, and so does one whose upstream gradients are 0.
    """

    @staticmethod
    def forward(ctx, student, index, first, temperature, group):
        compute = compute_type(student)
        counted, below, e = _exponentials(student.to(compute), temperature, group)
        at, classes = index - first, student.size(-1)
        own = (at >= 0) & (at < classes)
        at = torch.where(own, at, classes)  # one column too many takes what other ranks own
        below, padded = (F.pad(x, (0, 1)) for x in (below, e))
        others = padded.scatter(-1, at, 0).sum(-1, keepdim=True)
        parts = (below.gather(-1, at), padded.gather(-1, at), own.to(compute), others)
        below, picked, owners, others = over_ranks(torch.cat(parts, -1), dist.ReduceOp.SUM, group).split(
            (index.size(-1), index.size(-1), index.size(-1), 1), -1
        )
        total = torch.where(counted, others + picked.sum(-1, keepdim=True), 1)
        rest = others + _all_but_one(picked)
        near = picked > 0.125
        log_q = torch.where(near, -torch.log1p(rest / torch.where(near, picked, 1)), below - total.log())
        log_q = torch.where(counted, torch.where(owners == 1, log_q, torch.nan), 0)
        ctx.save_for_backward(e / total, at, own, picked / total, rest / total, others / total)
        ctx.dtype, ctx.temperature, ctx.name = student.dtype, temperature, "vocab_parallel"
        return log_q, torch.where(counted, (others / total).log(), 0).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, of_picked, of_others):
        q, at, own, q_picked, one_less_q, q_others = ctx.saved_tensors
        of_others = of_others.unsqueeze(-1)
        dropped = (of_picked == 0).all(-1, keepdim=True) & (of_others == 0)
        share = torch.where(q_others > 0, of_others / q_others, 0)
        total = of_picked.sum(-1, keepdim=True) + of_others
        here = of_picked * one_less_q - q_picked * (total - of_picked)
        grad = F.pad(q * (share - total), (0, 1)).scatter(-1, at, torch.where(own, here, 0))[..., :-1]
        return torch.where(dropped, 0, grad / ctx.temperature).to(ctx.dtype), *(None,) * 4


def _all_but_one(x: Tensor) -> Tensor:
    """Sums over [rows..., k] without each number in turn, the largest left out by selection."""
    largest = torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.argmax(-1, keepdim=True), True)
    small = torch.where(largest, 0, x).sum(-1, keepdim=True)
    return torch.where(largest, small, x.sum(-1, keepdim=True) - x)


class SoftTarget(Function):
    """-sum p log q over the classes [rows..., C_rank] of all ranks, q = softmax(student / T), and which rows
    have a possible class. The gradient is q sum(p) - p: at a peak of q, minus that of the other classes."""

    @staticmethod
    def forward(ctx, student, probs, temperature, group):
        compute = torch.promote_types(torch.float32, torch.promote_types(student.dtype, probs.dtype))
        p = probs.to(compute)
        counted, below, e = _exponentials(student.to(compute), temperature, group)
        value = torch.where(p != 0, -p * below, 0)
        sums = torch.stack([x.sum(-1, keepdim=True) for x in (e, p, value)])
        total, mass, value = over_ranks(sums, dist.ReduceOp.SUM, group)
        total = torch.where(counted, total, 1)
        q = e / total
        slope = q * mass - p
        peak = q > LEAST_PEAK
        others = over_ranks(torch.where(peak, 0, slope).sum(-1, keepdim=True), dist.ReduceOp.SUM, group)
        slope = torch.where(peak, -others, slope) / temperature
        ctx.save_for_backward(torch.where(counted, slope, 0))
        ctx.dtype, ctx.name = student.dtype, "vocab_parallel"
        counted = counted.squeeze(-1)
        ctx.mark_non_differentiable(counted)
        return torch.where(counted, (value + mass * total.log()).squeeze(-1), 0), counted

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, _):
        (slope,) = ctx.saved_tensors
        factor = upstream.unsqueeze(-1)
        return torch.where(factor == 0, 0, slope * factor).to(ctx.dtype), *(None,) * 3


class KLTerms(Function):
    """sum over the last dimension of KL's terms, from log p (a constant) and log q: never negative, and exact
    where they are near each other. Its gradient is q - p, which sums to 0 if both are whole."""

    @staticmethod
    def forward(ctx, log_p, log_q):
        p, q = log_p.exp(), log_q.exp()
        r = torch.where(log_p == log_q, 0, log_p - log_q)
        near = r.abs() <= 0.5
        change = torch.where(near, p * torch.expm1(-torch.where(near, r, 0)), q - p)
        ctx.save_for_backward(change)
        ctx.name = "vocab_parallel"
        return kl_terms(p, q, r, change).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (change,) = ctx.saved_tensors
        factor = upstream.unsqueeze(-1)
        return None, torch.where(factor == 0, 0, change * factor)
