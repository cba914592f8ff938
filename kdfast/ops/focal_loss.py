"""The focal loss (Lin et al. 2017), in its standard form and in the form of KD-OCT's code."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import INF, compute_type, keep, possible, reduce_rows
from kdfast.ops._divergence import of_shards
from kdfast.ops._index import checked
from kdfast.ops._row_loss import register_fakes, row_loss


def focal_loss_reference(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    weight_in_pt: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """The definition: w (1 - p)^gamma (-log p), p the target's probability; weight_in_pt: p^w takes p's
    place.
    """
    compute = compute_type(logits)
    x = logits.to(compute)
    counted = target != ignore_index
    target = checked("target", target, x.size(-1), counted)
    counted &= possible(x)
    loss = -keep(counted, x).log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    w = torch.ones_like(loss) if weight is None else weight.detach().to(compute)[target]
    value = focal(w * loss, gamma) if weight_in_pt else w * focal(loss, gamma)
    value = torch.where(counted & (w != 0), value, 0)
    return reduce_rows(value, counted.to(compute), reduction, logits.size(0))


def focal(n: Tensor, gamma: float) -> Tensor:
    """(1 - e^-n)^gamma n for n >= 0, with a finite derivative at 0 and at +inf."""
    inside = (n > 0) & (n < INF)
    safe = torch.where(inside, n, 1)
    at_ends = n if gamma == 0 else torch.where(n == 0, 0, n)
    return torch.where(inside, (-torch.expm1(-safe)) ** gamma * safe, at_ends)


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    weight: Tensor | None = None,
    weight_in_pt: bool = False,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """w (1 - p)^gamma (-log p) of the target's probability p and class weight w (Lin et al. 2017, eq. 5).

    1 - p is taken without cancellation. gamma = 0 is weighted cross entropy. weight_in_pt=True is the form of
    KD-OCT's code, (1 - p^w)^gamma w (-log p): there the weight enters the focusing factor too.

    Args:
        logits: [..., C]; classes are the last dimension (for images, logits.movedim(1, -1)). Gets the
            gradient.
        target: class numbers [...], an integer tensor.
        gamma: focusing exponent, at least 0.
        weight: a float per class, [C].
        weight_in_pt: use p^w for p in the focusing factor.
        ignore_index: rows with this target are 0 and not counted.
        reduction: "mean" (sum / number of counted rows: the weights do not enter), "sum", "batchmean" (sum /
            size(0)) or "none".

    Returns:
        float32 (float64 for float64 logits), 0-d or [...].

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs; on the CPU, ValueError
    for a target that is neither ignore_index nor a class.
    """
    if hasattr(logits, "device_mesh"):
        return of_shards(
            "focal_loss", logits, target, gamma=gamma, weight=weight, weight_in_pt=weight_in_pt,
            ignore_index=ignore_index, reduction=reduction,
        )  # fmt: skip
    _check.logits("logits", logits)
    _check.class_index("target", target, logits.shape[:-1], "logits", logits)
    gamma = _check.number("gamma", gamma)
    if not 0 <= gamma < INF:
        raise ValueError(f"gamma must be a finite number of at least 0, got {gamma}")
    if weight is not None:
        _check.class_weight(weight, logits.size(-1), "logits", logits)
    _check.flag("weight_in_pt", weight_in_pt)
    _check.whole_number("ignore_index", ignore_index, -(2**63))
    _check.reduction(reduction)
    kernels = backend.of(logits, "focal_loss")
    if kernels != "reference":
        return row_loss(
            "focal_loss", kernels, logits,
            index=target, weight=weight, dim=(logits.dim() - 1,), reduction=reduction, a=gamma,
            b=float(weight_in_pt), ignore_index=ignore_index,
        )[0]  # fmt: skip
    return focal_loss_reference(
        logits, target, gamma=gamma, weight=weight, weight_in_pt=weight_in_pt, ignore_index=ignore_index,
        reduction=reduction,
    )  # fmt: skip


register_fakes("focal_loss")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    target = torch.randint(0, 33, (5,), generator=generator)
    return [torch.randn(5, 33, generator=generator), target], {}
