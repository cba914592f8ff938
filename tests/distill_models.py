"""The small models and losses of the tests of FeatureTap and Distiller."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.loss import _Loss
from torch.utils.checkpoint import checkpoint

from kdfast.distill import Distiller, Term

X, Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 2, 1])


def mlp(width: int = 6, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Linear(width, 3))


class SquaredError(_Loss):
    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (student - teacher).square().mean()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.block, self.head = nn.Linear(4, 4), mlp(), nn.Linear(3, 3)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.reentrant is not None:
            return self.head(checkpoint(self.block, x, use_reentrant=self.reentrant))
        return self.head(self.block(x))


def pair(*terms: Term, **options) -> Distiller:
    return Distiller(mlp(seed=1), mlp(seed=2), terms=list(terms) or [Term(nn.MSELoss(), "0", "0")], **options)
