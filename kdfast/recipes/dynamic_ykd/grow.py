"""The head between steps: rows for new classes, and the average of two heads."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from kdfast.recipes.dynamic_ykd.network import Head

Init = Literal["fresh", "mib"]
Rows = Literal["skip", "shared"]


@torch.no_grad()
def grown(head: Head, new: int, *, init: Init = "fresh") -> Head:
    """A copy of `head` with `new` more classes behind its own.

    Args:
        init: "fresh", new rows as torch initialises layers; or "mib" (Cermelli et al., CVPR 2020): the new
            class rows start as background's, its bias less the logarithm of the number of old classes.
    """
    if new < 1:
        raise ValueError(f"new must be 1 or more, got {new}")
    if init not in ("fresh", "mib"):
        raise ValueError(f"init must be 'fresh' or 'mib', got {init!r}")
    made, known = copy.deepcopy(head), head.num_classes
    made.requires_grad_(True).train()
    boxes = made.box_predictor
    boxes.cls_score = _longer(boxes.cls_score, known + new)
    boxes.bbox_pred = _longer(boxes.bbox_pred, 4 * (known + new))
    if init == "mib":
        boxes.cls_score.weight[known:] = boxes.cls_score.weight[0]
        share = torch.log(torch.tensor(float(max(known - 1, 1))))
        boxes.cls_score.bias[known:] = boxes.cls_score.bias[0] - share
    if made.mask_predictor is not None:
        made.mask_predictor.mask_fcn_logits = _longer(made.mask_predictor.mask_fcn_logits, known + new)
    return made


def _longer(layer: nn.Module, rows: int) -> nn.Module:
    """A layer of the same kind with more outputs; the first ones are the old."""
    if isinstance(layer, nn.Linear):
        made: nn.Module = nn.Linear(layer.in_features, rows)
    else:
        made = nn.Conv2d(layer.in_channels, rows, layer.kernel_size)
    made.to(layer.weight.device)
    for name in ("weight", "bias"):
        getattr(made, name)[: len(layer.bias)] = getattr(layer, name)
    return made


@torch.no_grad()
def average_heads(old: nn.Module, new: nn.Module, weight: float, *, rows: Rows = "skip") -> nn.Module:
    """A copy of `new` whose tensors are weight x old + (1 - weight) x new, without any training.

    Args:
        old, new: heads of two steps; tensors are matched by name.
        weight: of the old head, in [0, 1]: more keeps old classes, less learns new ones.
        rows: what becomes of tensors that have more rows in `new` (the predictors): "skip" keeps the new
            head's, as the authors do; "shared" averages the rows that both have.

    Raises:
        ValueError: weight or rows is out of range, or no tensor is in both.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight}")
    if rows not in ("skip", "shared"):
        raise ValueError(f"rows must be 'skip' or 'shared', got {rows!r}")
    before, made = old.state_dict(), copy.deepcopy(new)
    common = 0
    for name, tensor in made.state_dict().items():
        if name in before and tensor.is_floating_point():
            common += _blend(before[name], tensor, weight, rows)
    if not common:
        raise ValueError("the two heads have no tensor of one name and shape")
    return made


def _blend(old: Tensor, tensor: Tensor, weight: float, rows: Rows) -> bool:
    """tensor <- the average, in place; False where it is kept."""
    if old.shape == tensor.shape:
        tensor.lerp_(old.to(tensor), weight)
        return True
    shared = rows == "shared" and old.shape[1:] == tensor.shape[1:] and len(old) < len(tensor)
    if shared:
        tensor[: len(old)].lerp_(old.to(tensor), weight)
    return shared
