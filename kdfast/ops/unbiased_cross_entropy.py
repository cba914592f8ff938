"""The unbiased cross entropy of Dynamic Y-KD (after MiB, Cermelli et al. 2020): old classes count as
background.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import compute_type, keep, log_sum_exp, possible, reduce_rows
from kdfast.ops._index import checked
from kdfast.ops._row_loss import register_fakes, row_loss


def unbiased_cross_entropy_reference(
    logits: Tensor, target: Tensor, *, num_old: int, reduction: str = "mean"
) -> Tensor:
    """The definition: -log of the target's probability, where classes 0 .. num_old are one class, the
    background.
    """
    compute = compute_type(logits)
    x = logits.to(compute)
    counted = possible(x)
    target = checked("target", target, x.size(-1))
    log_p = keep(counted, x).log_softmax(-1)
    background = log_sum_exp(log_p[..., : num_old + 1])
    picked = log_p.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    old = (target > 0) & (target <= num_old)
    value = -torch.where(counted & ~old, torch.where(target == 0, background, picked), 0)
    return reduce_rows(value, counted.to(compute), reduction, logits.size(0))


def unbiased_cross_entropy(
    logits: Tensor, target: Tensor, *, num_old: int, reduction: str = "mean"
) -> Tensor:
    """Cross entropy where only new classes are labelled (Dynamic Y-KD): background may be any of the old
    classes.

    A row labelled 0 has the value -log(p_0 + ... + p_num_old): the probability of background and of the
    num_old old classes behind it together. A row labelled with a new class c > num_old has -log p_c. A row
    labelled with an old class is 0, with a zero gradient, and is counted: such labels do not occur where old
    annotations are removed.

    Args:
        logits: [..., C]; class 0 is background, classes 1 ... num_old are old, the rest new. Gets the
            gradient.
        target: class numbers [...], an integer tensor.
        num_old: how many old classes there are, without the background; in [0, C - 1]. 0 is plain
            cross entropy.
        reduction: "mean" (sum / number of counted rows), "sum", "batchmean" (sum / size(0)) or "none".

    Returns:
        float32 (float64 for float64 logits), 0-d or [...]. A row of -inf alone is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs; on the CPU, ValueError
    for a target that is no class.
    """
    _check.logits("logits", logits)
    _check.class_index("target", target, logits.shape[:-1], "logits", logits)
    if _check.whole_number("num_old", num_old, 0) >= logits.size(-1):
        raise ValueError(f"num_old must be below the number of classes, {logits.size(-1)}, got {num_old}")
    _check.reduction(reduction)
    kernels = backend.of(logits, "unbiased_cross_entropy")
    if kernels != "reference":
        return row_loss(
            "unbiased_cross_entropy", kernels, logits,
            index=target, dim=(logits.dim() - 1,), reduction=reduction, a=float(num_old),
        )[0]  # fmt: skip
    return unbiased_cross_entropy_reference(logits, target, num_old=num_old, reduction=reduction)


register_fakes("unbiased_cross_entropy")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    target = torch.randint(0, 9, (2, 5), generator=generator)
    return [torch.randn(2, 5, 9, generator=generator), target], {"num_old": 2}
