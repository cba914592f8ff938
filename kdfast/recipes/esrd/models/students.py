"""Small models for a clinic: a narrow GRU, and a Kolmogorov-Arnold network whose curves can be read.

The KAN sees one row a person (the last step and the mean of each feature's prepared values, as far as they
say different things) and, with one layer, is a sum of one curve a feature: risk as a clinician draws it.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from kdfast.nn import KAN
from kdfast.ops.kan_linear import kan_linear_reference
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models.network import RiskNetwork
from kdfast.recipes.esrd.models.preparer import Preparer
from kdfast.recipes.esrd.models.summary import statistics

KAN_RANGE = 3.0  # standard deviations that the splines span; the curves go on straight beyond


class Summary(nn.Module):
    """Prepared steps z [B, T, F] -> rows [B, P]; `names` says what the columns are."""

    def __init__(self, features: Sequence[Feature], steps: int) -> None:
        super().__init__()
        kinds = [statistics(f, steps) for f in features]
        self.last = [i for i, kind in enumerate(kinds) if kind != ("mean",)]
        self.mean = [i for i, kind in enumerate(kinds) if "mean" in kind]
        self.names = [features[i].name + (" (last)" if i in self.mean else "") for i in self.last]
        self.names += [f"{features[i].name} (mean)" for i in self.mean]

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([z[:, -1, self.last], z[:, :, self.mean].mean(1)], -1)


class KANStudent(nn.Module):
    """Raw cells [B, T, F] -> logit [B] through `kdfast.nn.KAN`. `hidden` 0: one layer, a sum of curves."""

    def __init__(
        self, features: Sequence[Feature], steps: int, *, hidden: int = 0, grid_size: int = 4
    ) -> None:
        super().__init__()
        self.preparer = Preparer(features)
        self.summary = Summary(features, steps)
        widths = [len(self.summary.names), *([hidden] if hidden else []), 1]
        self.kan = KAN(widths, grid_size=grid_size, extrapolation="linear")

    def rows(self, x: Tensor) -> Tensor:
        """What the KAN reads, [B, P], scaled so that the splines span +-1."""
        return self.summary(self.preparer(x)) / KAN_RANGE

    @property
    def first_layer(self) -> nn.Module:
        """The KAN layer that reads the rows."""
        return self.kan[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.kan(self.rows(x)).squeeze(-1)


class DefinedLayer(nn.Module):
    """A KANLinear by its definition in plain torch, for files that must run without kdfast."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        return kan_linear_reference(
            x,
            layer.spline_weight,
            grid=layer.grid,
            degree=layer.degree,
            scale=layer.spline_scaler,
            base_weight=layer.base_weight,
            base=layer.base,
            extrapolation=layer.extrapolation,
        )


def exportable(network: nn.Module) -> nn.Module:
    """The same network of plain torch operations: KAN layers by their definition, the rest as it is."""
    if not isinstance(network, KANStudent):
        return network
    copy = deepcopy(network)
    copy.kan = nn.Sequential(*map(DefinedLayer, copy.kan))
    return copy


def make_student(kind: str, features: Sequence[Feature], steps: int, *, hidden: int = 8) -> nn.Module:
    """`kind` gru or kan, untrained."""
    if kind == "gru":
        return RiskNetwork("gru", features, steps, hidden=hidden, layers=1, dropout=0.0, head="linear")
    if kind == "kan":
        return KANStudent(features, steps)
    raise ValueError(f"student must be gru or kan, got {kind!r}")
