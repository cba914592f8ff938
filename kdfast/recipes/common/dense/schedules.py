"""Optimizers with schedules by the step, as (parameters, steps) -> what Lightning expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from kdfast.recipes.common.classify import Optimize


def sgd_steps(
    lr: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    warmup: int = 500,
    drops: tuple[float, ...] = (2 / 3, 11 / 12),
) -> Optimize:
    """SGD, a linear warm-up over `warmup` steps (at most a tenth of all), divided by 10 at each of `drops`.

    drops: shares of the whole training; 2/3 and 11/12 are epochs 16 and 22 of 24, detection's "2x".
    """

    def factor(step: int, steps: int) -> float:
        ramp = max(1, min(warmup, steps // 10))
        rise = min(1.0, (step + 1) / ramp)
        return rise * 0.1 ** sum(step >= share * steps for share in drops)

    return _scheduled(lambda p: torch.optim.SGD(p, lr, momentum, weight_decay=weight_decay), factor)


def sgd_polynomial(
    lr: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    power: float = 0.9,
    floor: float = 1e-4,
) -> Optimize:
    """SGD whose rate falls as (1 - progress)^power, not below `floor` (an absolute rate): segmentation's."""

    def factor(step: int, steps: int) -> float:
        return max(floor / lr, (1 - min(step, steps) / steps) ** power)

    return _scheduled(lambda p: torch.optim.SGD(p, lr, momentum, weight_decay=weight_decay), factor)


def _scheduled(
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer], factor: Callable[[int, int], float]
) -> Optimize:
    def optimize(parameters: list[nn.Parameter], steps: int) -> dict[str, Any]:
        made = optimizer(parameters)
        schedule = LambdaLR(made, lambda step: factor(step, steps))
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return optimize
