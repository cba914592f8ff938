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
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import compute_type, reduce_rows, row_weight
from kdfast.ops._sharded import ShardedDivergence


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
    value, counted = ShardedDivergence.apply(
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
