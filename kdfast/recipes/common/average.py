"""An exponential moving average of weights, with which a network is validated and, in the end, kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class MovingAverage(nn.Module):
    """m <- (1 - momentum) m + momentum w after every step, of `parameters`; buffers stay as they are.

    The averages are frozen parameters, so that they are in the state dict of the module that holds this one
    and DDP sends them out once.

    Args:
        parameters: of the network; their present values begin the average.
        momentum: in (0, 1); 1e-4 in ScaleKD's settings for transformers.

    Raises ValueError for a momentum out of range.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], momentum: float) -> None:
        super().__init__()
        if not 0 < momentum < 1:
            raise ValueError(f"momentum must be in (0, 1), got {momentum}")
        self.momentum = momentum
        self._weights = list(parameters)  # a plain list: not registered again
        self.averages = nn.ParameterList(
            nn.Parameter(weight.detach().clone(), requires_grad=False) for weight in self._weights
        )

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimizer."""
        torch._foreach_lerp_(list(self.averages), self._weights, self.momentum)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages: before validation and after it."""
        for average, weight in zip(self.averages, self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def keep(self) -> None:
        """Give the network the averages, when training is over."""
        for average, weight in zip(self.averages, self._weights, strict=True):
            weight.copy_(average)
