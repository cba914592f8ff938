"""What a prediction rests on: Shapley values for tree models, expected gradients for networks, KAN
importances.

Expected gradients (Erion et al., 2021), on the prepared steps z [T, F] of a network with logit f:

    attribution_tf = E_{b, a} [ (z - b)_tf * df/dz_tf (b + a (z - b)) ],   b from a background, a uniform

They sum to f(z) - E f(b). shap's deep explainers do not know recurrent layers; this needs gradients only.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models import RiskNetwork, TabularModel
from kdfast.recipes.esrd.models.students import KAN_RANGE, KANStudent
from kdfast.recipes.esrd.models.summary import summarise


@dataclass(frozen=True)
class Explanation:
    """values [n, P] add up, with `base`, to the model's output, which is in `unit`; data [n, P] holds what
    they belong to.
    """

    values: np.ndarray
    base: float
    data: np.ndarray
    names: list[str]
    unit: str = "log odds"

    def importance(self) -> dict[str, float]:
        """Mean absolute value of each name, largest first."""
        mean = np.abs(self.values).mean(0)
        order = np.argsort(-mean)
        return {self.names[i]: float(mean[i]) for i in order}

    def to_json(self) -> dict[str, Any]:
        """For a run folder."""
        return asdict(self) | {"values": self.values.tolist(), "data": self.data.tolist()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Explanation:
        return cls(**stored | {k: np.asarray(stored[k], dtype=np.float64) for k in ("values", "data")})


def tree_shap(model: TabularModel, x: np.ndarray) -> Explanation:
    """Shapley values of a fitted tree model for people x [n, T, F]; logits for boosting, probability for a
    forest.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # its use of matplotlib
        import shap

    table, names = summarise(x, model.features)
    estimator = model.estimator_
    steps = getattr(estimator, "steps", None)
    inputs = table if steps is None else estimator[:-1].transform(table)
    found = shap.TreeExplainer(estimator if steps is None else steps[-1][1])(inputs, check_additivity=False)
    values, base = found.values, np.asarray(found.base_values)
    unit = "log odds"
    if values.ndim == 3:  # a forest explains the probability of both classes
        values, base, unit = values[:, :, 1], base[:, 1], "probability"
    return Explanation(values, float(base.mean()), table, names, unit)


def expected_gradients(
    function: nn.Module, z: Tensor, background: Tensor, *, draws: int = 200, seed: int = 0, batch: int = 64
) -> Tensor:
    """Attributions shaped like z [n, ...] of the scalar outputs `function(z)` [n].

    `draws` pairs (b, a) for each row: the background in turn, in random order, with a stratified over (0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    turn = torch.randperm(len(background), generator=generator).repeat(-(-draws // len(background)))[:draws]
    share = (torch.arange(draws) + torch.rand(draws, generator=generator)) / draws
    share = share[torch.randperm(draws, generator=generator)]
    b, a = background[turn], share.view(-1, *[1] * (z.dim() - 1)).to(z.dtype)  # [draws, ...]
    rows = []
    for row in z:
        total = torch.zeros_like(row)
        for i in range(0, draws, batch):
            away = row - b[i : i + batch]
            point = (b[i : i + batch] + a[i : i + batch] * away).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(function(point).sum(), point)
            total += (away * slope).sum(0)
        rows.append(total / draws)
    return torch.stack(rows)


def explain_network(
    network: RiskNetwork, x: np.ndarray, background: np.ndarray, features: Sequence[Feature], **options: int
) -> tuple[np.ndarray, Explanation]:
    """Attributions [n, T, F] to the logit for raw x [n, T, F], and the same summed over time."""
    network.eval()
    with torch.no_grad():
        z, b = (network.preparer(torch.from_numpy(a)) for a in (x, background))
        base = float(network.head(network.encoder(b)).mean())

    def logit(point: Tensor) -> Tensor:
        return network.head(network.encoder(point)).squeeze(-1)

    values = expected_gradients(logit, z, b, **options).numpy()
    names = [f.name for f in features]
    return values, Explanation(values.sum(1), base, z[:, -1].numpy(), names)


def kan_importances(student: KANStudent, x: np.ndarray) -> dict[str, float]:
    """Spread (standard deviation) of the functions that leave each input of a KAN student, over x [n, T, F];
    largest first. Their mean size would also count what is the same for everybody.
    """
    with torch.no_grad():
        _, _, variance = student.first_layer.edge_stats(student.rows(torch.from_numpy(x)))
    spread = variance.clamp(min=0).sqrt().mean(0)
    order = torch.argsort(spread, descending=True)
    return {student.summary.names[i]: float(spread[i]) for i in order}


@dataclass(frozen=True)
class Curve:
    """What one input of a one-layer KAN adds to the log odds: y [G] at values x [G] in the feature's unit."""

    name: str
    unit: str
    flag: bool
    x: np.ndarray
    y: np.ndarray


@torch.no_grad()
def kan_curves(
    student: KANStudent,
    x: np.ndarray,
    features: Sequence[Feature],
    *,
    slope: float = 1.0,
    top: int = 6,
    points: int = 60,
) -> list[Curve]:
    """The curves of the `top` inputs between the 1st and 99th percentile of people x [n, T, F], relative to
    the average person, times `slope`, that of the student's calibration.

    ValueError if the KAN has several layers, whose inputs have no curve of their own.
    """
    if len(student.kan) != 1:
        raise ValueError(f"only a KAN of one layer is a sum of curves, this one has {len(student.kan)}")
    rows = student.rows(torch.from_numpy(x))
    rest = torch.zeros(points, rows.size(1))
    columns = [*student.summary.last, *student.summary.mean]
    curves = []
    for name in list(kan_importances(student, x))[:top]:
        i = student.summary.names.index(name)
        feature = features[columns[i]]
        low, high = torch.quantile(rows[:, i], torch.tensor([0.01, 0.99])).tolist()
        rest[:, i] = torch.linspace(low, high, points)
        added = slope * (student.kan(rest) - student.kan(torch.zeros_like(rest))).squeeze(-1)
        raw = rest[:, i] * KAN_RANGE * student.preparer.deviation[columns[i]]
        raw = raw + student.preparer.mean[columns[i]]
        shown = torch.expm1(raw) if feature.skewed else raw
        curves.append(Curve(name, feature.unit, feature.flag, shown.numpy(), added.numpy()))
        rest[:, i] = 0
    return curves
