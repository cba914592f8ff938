"""What the functions of kdfast.vocab_parallel share: this rank's part of a tensor, checks, the target."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import compute_type, possible, reduce_rows, row_weight
from kdfast.ops._sharded import over_ranks
from kdfast.ops._sharded_rows import Picked, at_classes, class_range


def sharded(x: object, name: str) -> tuple[Tensor, Any]:
    """A DTensor's local classes and the group that shares its rows; other tensors as they are, and None."""
    from torch.distributed.tensor import DTensor

    _check.tensor(name, x)
    if not isinstance(x, DTensor):
        return x, None
    split = [i for i, placement in enumerate(x.placements) if placement.is_shard()]
    if len(split) != 1 or x.placements[split[0]].dim % x.dim() != x.dim() - 1:
        raise ValueError(f"{name} must be sharded on its last dimension alone, got {x.placements}")
    return x.to_local(), x.device_mesh.get_group(split[0])


def whole(x: Tensor | None) -> Tensor | None:
    """What every rank has whole: targets, masks. A DTensor's shards are put together."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def finish(
    value: Tensor, counted: Tensor, rows: Tensor, reduction: str, batch: int, divisor: Tensor | None = None
) -> Tensor:
    """Row values reduced; a row that is not counted or weighs nothing is left out by selection."""
    rows = torch.where(counted, rows, 0)
    value = torch.where(rows != 0, value, 0) * rows
    return reduce_rows(value, rows, reduction, batch, None if divisor is None else rows * divisor)


def rows_of(student: Tensor, mask: Tensor | None, reduction: str, compute: torch.dtype) -> Tensor:
    """The rows' weights, of checked options."""
    _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, student.shape[:-1], student)
    return row_weight(mask, student.to(compute))


def targets_of(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    mask: Tensor | None,
    reduction: str,
    name: str = "student",
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Checked: class numbers, 0 in rows that are dropped; this rank's class weights; the rows' weights."""
    target = whole(target)
    _check.class_index("target", target, x.shape[:-1], name, x)
    _check.whole_number("ignore_index", ignore_index, -(2**63))
    if weight is not None:
        weight, _ = sharded(weight, "weight")
        _check.class_weight(weight, x.size(-1), name, x)
    rows = rows_of(x, mask, reduction, compute_type(x))
    rows = torch.where(target == ignore_index, 0, rows)
    return torch.where(rows != 0, target, 0).long(), weight, rows


def of_target_class(
    x: Tensor, target: Tensor, weight: Tensor | None, counted: Tensor, group: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """-log of the target's probability, its weight, and how many classes there are."""
    first, classes = class_range(x.size(-1), group, x.device)
    check_numbers("target", target, classes, counted)
    nll = -Picked.apply(x, target.unsqueeze(-1), first, 1.0, group)[0].squeeze(-1)
    if weight is None:
        return nll, torch.ones_like(nll), classes
    return nll, at_classes(weight.detach().to(nll.dtype), target, first, group), classes


def check_numbers(name: str, index: Tensor, classes: Tensor, counted: Tensor) -> None:
    """ValueError on the CPU for a counted number that is no class; a GPU's are not read back."""
    if index.is_cuda:
        return
    outside = ((index < 0) | (index >= classes)) & counted
    if outside.any():
        raise ValueError(
            f"{name} must hold class numbers in [0, {int(classes) - 1}], got {index[outside][0].item()}"
        )


def possible_anywhere(x: Tensor, group: Any) -> Tensor:
    """Rows that have a possible class on some rank."""
    some = over_ranks(possible(x).to(torch.int32), dist.ReduceOp.MAX, group)
    return some > 0
