"""One interface for all models: fit(x [n, T, F], y [n], weight), logits(x) -> [n].

Tabular models (scikit-learn, XGBoost, LightGBM) read summaries of the window (summary.py), networks the
steps themselves. Logits, not probabilities: calibration and distillation both begin from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

from kdfast.recipes.common.seeds import derive, seed_all
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.models.encoders import ENCODERS
from kdfast.recipes.esrd.models.network import RiskNetwork
from kdfast.recipes.esrd.models.summary import summarise
from kdfast.recipes.esrd.models.tabular import TABULAR, tabular
from kdfast.recipes.esrd.models.training import (
    RiskTraining,
    Settings,
    positive_weight,
    samples,
    train_quietly,
)

Params = dict[str, Any]


class Model(Protocol):
    """What cross-validation, explanation and distillation ask of a model."""

    def fit(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Model: ...

    def logits(self, x: np.ndarray) -> np.ndarray: ...


class TabularModel:
    """An estimator of scikit-learn's kind on `summarise(x)`. `estimator_` is the fitted one, `names_` its
    columns.
    """

    def __init__(
        self, build: Callable[[], Any], features: Sequence[Feature], *, balanced: bool = True
    ) -> None:
        self.build, self.features, self.balanced = build, tuple(features), balanced

    def fit(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> TabularModel:
        table, self.names_ = summarise(x, self.features)
        weight = np.ones(len(y)) if weight is None else weight
        if self.balanced:
            weight = np.where(y == 1, positive_weight(y, weight), 1.0) * weight
        self.estimator_ = self.build()
        steps = getattr(self.estimator_, "steps", None)
        name = f"{steps[-1][0]}__sample_weight" if steps else "sample_weight"
        self.estimator_.fit(table, y, **{name: weight})
        return self

    def logits(self, x: np.ndarray) -> np.ndarray:
        p = self.estimator_.predict_proba(summarise(x, self.features)[0])[:, 1].astype(np.float64)
        p = np.clip(p, 1e-6, 1 - 1e-6)  # a forest may say 0 or 1
        return np.log(p) - np.log1p(-p)


class NetworkModel:
    """A `RiskNetwork`, trained by Lightning. `network_` is the fitted one."""

    def __init__(
        self,
        kind: str,
        features: Sequence[Feature],
        settings: Settings | None = None,
        *,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        self.kind, self.features, self.sizes = kind, tuple(features), sizes
        self.settings, self.seed = settings or Settings(), seed

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray | None = None,
        teacher: np.ndarray | None = None,
    ) -> NetworkModel:
        check, (x, y, weight, teacher) = self._hold_out(x, y, weight, teacher)
        seed_all(derive(self.seed, self.kind))
        sizes = {**self.sizes, "imputation": self.settings.imputation}
        network = RiskNetwork(self.kind, self.features, x.shape[1], **sizes)
        network.preparer.fit(x)
        module = RiskTraining(network, self.settings, positive_weight(y, weight))
        self.network_ = train_quietly(module, samples(x, y, weight, teacher), self.seed, check).network
        return self

    def _hold_out(self, *arrays: np.ndarray | None) -> tuple[TensorDataset | None, Sequence[Any]]:
        """One training person in seven to stop early by, and the others; None and all without patience."""
        if not self.settings.patience:
            return None, arrays
        rows, y = np.arange(len(arrays[1])), arrays[1]
        train, check = train_test_split(rows, test_size=1 / 7, stratify=y, random_state=self.seed)
        parts = ([a if a is None else a[part] for a in arrays] for part in (check, train))
        return samples(*next(parts)), next(parts)

    def logits(self, x: np.ndarray) -> np.ndarray:
        return network_logits(self.network_, x)


@torch.no_grad()
def network_logits(network: torch.nn.Module, x: np.ndarray, batch: int = 4096) -> np.ndarray:
    """[n] float64 logits of any module from raw cells to a logit."""
    network.eval()
    parts = [network(torch.from_numpy(x[i : i + batch])) for i in range(0, max(len(x), 1), batch)]
    return torch.cat(parts).double().numpy()


MODELS = (*TABULAR, *ENCODERS)

GRIDS: dict[
    str, list[Params]
] = {  # what inner cross-validation may choose from; networks: the paper's grid, shortened
    "logistic": [{"C": 0.01}, {"C": 0.1}, {"C": 1.0}],
    "random_forest": [{"min_samples_leaf": 5}, {"min_samples_leaf": 20}],
    "xgboost": [{"max_depth": 2}, {"max_depth": 4}],
    "lightgbm": [{"num_leaves": 4}, {"num_leaves": 12}],
    **{kind: [{"epochs": 10}, {"epochs": 30}] for kind in ENCODERS},
}


def make_model(
    name: str,
    features: Sequence[Feature],
    params: Params | None = None,
    *,
    settings: Settings | None = None,
    seed: int = 0,
    sizes: Params | None = None,
) -> Model:
    """A model by name. `params` are the estimator's, or fields of `Settings` and sizes of `RiskNetwork` for
    a network.
    """
    params = dict(params or {})
    if name in TABULAR:
        settings = settings or Settings()
        build = partial(tabular, name, seed, settings.imputation, params)
        return TabularModel(build, features, balanced=settings.imbalance != "none")
    if name not in ENCODERS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    settings = settings or Settings()
    known = {k: params.pop(k) for k in list(params) if k in Settings.__dataclass_fields__}
    return NetworkModel(name, features, replace(settings, **known), seed=seed, **{**(sizes or {}), **params})
