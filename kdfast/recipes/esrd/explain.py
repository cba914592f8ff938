"""What a prediction rests on: Shapley values for tree models, expected gradients for networks, KAN
importances.

Expected gradients (Erion et al., 2021), on the prepared steps z [T, F] of a network with logit f:

    attribution_tf = E_{b, a} [ (z - b)_tf * df/dz_tf (b + a (z - b)) ],   b from a background, a uniform

They sum to f(z) - E f(b). shap's deep explainers do not know recurrent layers; this needs gradients only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models import RiskNetwork, TabularModel
from kdfast.recipes.esrd.models.students import KANStudent
from kdfast.recipes.esrd.models.summary import summarise


@dataclass(frozen=True)
class Explanation:
    """values [n, P] add up, with `base`, to the model's output; data [n, P] holds what they belong to."""

    values: np.ndarray
    base: float
    data: np.ndarray
    names: list[str]

    def importance(self) -> dict[str, float]:
        """Mean absolute value of each name, largest first."""
        mean = np.abs(self.values).mean(0)
        order = np.argsort(-mean)
        return {self.names[i]: float(mean[i]) for i in order}


def tree_shap(model: TabularModel, x: np.ndarray) -> Explanation:
    """Shapley values of a fitted tree model for people x [n, T, F]; logits for boosting, probability for a
    forest.
    """
    import shap

    table, names = summarise(x, model.features)
    estimator = model.estimator_
    steps = getattr(estimator, "steps", None)
    inputs = table if steps is None else estimator[:-1].transform(table)
    found = shap.TreeExplainer(estimator if steps is None else steps[-1][1])(inputs, check_additivity=False)
    values, base = found.values, np.asarray(found.base_values)
    if values.ndim == 3:  # a forest explains both classes
        values, base = values[:, :, 1], base[:, 1]
    return Explanation(values, float(base.mean()), table, names)


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
    """Mean size of the functions that leave each input of a KAN student, over x [n, T, F]; largest first."""
    from kdfast.functional import kan_edge_stats

    layer = student.first_layer
    with torch.no_grad():
        size, _, _ = kan_edge_stats(
            student.rows(torch.from_numpy(x)),
            layer.spline_weight,
            grid=layer.grid,
            degree=layer.degree,
            scale=layer.spline_scaler,
            base_weight=layer.base_weight,
            base=layer.base,
            extrapolation=layer.extrapolation,
        )
    mean = size.mean(0)
    order = torch.argsort(mean, descending=True)
    return {student.summary.names[i]: float(mean[i]) for i in order}
