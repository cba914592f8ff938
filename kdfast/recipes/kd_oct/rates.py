"""Learning rates by epoch: warm-up, cosine, stochastic weight averaging; the teacher's in two groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from kdfast.recipes.common import network_parts
from kdfast.recipes.common.classify import Optimize
from kdfast.recipes.kd_oct.options import Options


def rate(epoch: int, *, warmup: int, epochs: int, least: float = 1e-3) -> float:
    """Learning rate as a share of the given one: (e + 1) / w, then a cosine to `least`."""
    if epoch < warmup:
        return (epoch + 1) / warmup
    return least + (1 - least) / 2 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))


def averaging_rate(epoch: int, *, start: int, share: float, before: float, anneal: int = 10) -> float:
    """While weights are averaged, as SWALR: a cosine from `before` to `share` over `anneal` epochs."""
    done = min(1.0, (epoch - start) / anneal)
    return share + (before - share) / 2 * (1 + math.cos(math.pi * done))


def teacher_rates(network: nn.Module, options: Options) -> Optimize:
    """AdamW in two groups, by the epoch: the classifier, and the rest, which stands still while frozen."""
    head = {id(p) for p in network.get_submodule(network_parts.classifier_name(network)).parameters()}
    start = options.swa_start if options.swa_start >= 0 else options.teacher_epochs
    share = options.swa_lr / options.teacher_lr

    def factor(epoch: int) -> float:
        def plain(at: int) -> float:
            return rate(at, warmup=options.teacher_warmup, epochs=options.teacher_epochs)

        if epoch < start:
            return plain(epoch)
        return averaging_rate(epoch, start=start, share=share, before=plain(start))

    def backbone(epoch: int) -> float:
        return 0.0 if epoch < options.freeze else factor(epoch)

    def optimize(parameters: list[nn.Parameter], _: int) -> dict[str, Any]:
        groups = [
            {"params": [p for p in parameters if id(p) in head], "lr": options.teacher_lr},
            {"params": [p for p in parameters if id(p) not in head], "lr": options.backbone_lr},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, [factor, backbone])},
        }

    return optimize


def student_rates(options: Options) -> Optimize:
    """AdamW, by the epoch."""

    def optimize(parameters: list[nn.Parameter], _: int) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(parameters, options.lr, weight_decay=0.01)
        factor = LambdaLR(optimizer, lambda epoch: rate(epoch, warmup=options.warmup, epochs=options.epochs))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor}}

    return optimize
