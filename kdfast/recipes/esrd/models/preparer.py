"""The first layer of every network: raw cells with gaps in, standardised numbers out.

    log(1 + x) if skewed -> last value carried forward, then the first one back -> standardised -> median

or, with imputation "mice", chained equations in the median's place (imputation.py). All of it within the
observation window, with medians, means and deviations of the training people only. As a module it travels
with the network, so an exported student reads a clinic's raw numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models.imputation import ChainedEquations

IMPUTATIONS = ("median", "mice")
CLIP = 6.0  # standard deviations; beyond them a value says no more than "extreme"


class Preparer(nn.Module):
    """x [B, T, F] with NaN -> z [B, T, F] without. `fit` sets its buffers."""

    def __init__(self, features: Sequence[Feature], *, imputation: str = "median") -> None:
        super().__init__()
        if imputation not in IMPUTATIONS:
            raise ValueError(f"imputation must be one of {', '.join(IMPUTATIONS)}, got {imputation!r}")
        size = len(features)
        self.register_buffer("skewed", torch.tensor([f.skewed for f in features]))
        self.register_buffer("median", torch.zeros(size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.chain = ChainedEquations(size) if imputation == "mice" else None

    @torch.no_grad()
    def fit(self, x: np.ndarray) -> Preparer:
        """Learn from training people x [n, T, F]. A feature nobody has stays at 0."""
        logged = self._log(torch.from_numpy(np.asarray(x, dtype=np.float32)))
        median = torch.nanmedian(logged.flatten(0, 1), dim=0).values
        self.median.copy_(torch.nan_to_num(median))
        carried = self._carry(logged)
        filled = self._centre(carried).flatten(0, 1).double()
        self.mean.copy_(filled.mean(0))
        deviation = filled.std(0, correction=0)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        if self.chain is not None:
            self.chain.fit(((carried - self.mean) / self.deviation).flatten(0, 1))
        return self

    def forward(self, x: Tensor) -> Tensor:
        carried = self._carry(self._log(x))
        if self.chain is not None:
            z = self.chain((carried - self.mean) / self.deviation)
        else:
            z = (self._centre(carried) - self.mean) / self.deviation
        return z.clamp(-CLIP, CLIP)

    def _log(self, x: Tensor) -> Tensor:
        return torch.where(self.skewed, torch.log1p(x.clamp(min=0)), x)

    def _centre(self, x: Tensor) -> Tensor:
        return torch.where(torch.isnan(x), self.median, x)

    def _carry(self, x: Tensor) -> Tensor:
        """Steps are few, and a plain loop over them is what ONNX can express."""
        steps = list(x.unbind(1))
        for t in range(1, len(steps)):
            steps[t] = torch.where(torch.isnan(steps[t]), steps[t - 1], steps[t])
        for t in reversed(range(len(steps) - 1)):
            steps[t] = torch.where(torch.isnan(steps[t]), steps[t + 1], steps[t])
        return torch.stack(steps, 1)
