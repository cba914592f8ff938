"""A risk network: preparer, encoder, head. Raw cells [B, T, F] in, one logit [B] out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models.encoders import ENCODERS
from kdfast.recipes.esrd.models.preparer import Preparer


class RiskNetwork(nn.Module):
    """Logit of the outcome. `preparer.fit` first; then train the rest."""

    def __init__(
        self,
        kind: str,
        features: Sequence[Feature],
        steps: int,
        *,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.2,
        head: Literal["mlp", "linear"] = "mlp",
        imputation: str = "median",
    ) -> None:
        super().__init__()
        if kind not in ENCODERS:
            raise ValueError(f"kind must be one of {', '.join(ENCODERS)}, got {kind!r}")
        self.preparer = Preparer(features, imputation=imputation)
        self.encoder = ENCODERS[kind](len(features), steps, hidden, layers, dropout)
        width = self.encoder.width
        self.head = nn.Linear(width, 1) if head == "linear" else _mlp_head(width, hidden, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.preparer(x))).squeeze(-1)


def _mlp_head(width: int, hidden: int, dropout: float) -> nn.Sequential:
    """The paper's head: width -> h -> h / 2 -> 1."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, hidden // 2), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden // 2, 1),
    )  # fmt: skip
