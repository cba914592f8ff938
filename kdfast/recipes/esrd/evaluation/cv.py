"""Nested cross-validation, with people as the unit.

Outer folds give every person one prediction by models that have not seen that person. Within each outer
training part, inner folds choose the settings, fit the calibration and choose the threshold; imputation,
scaling and class weights are part of the model and learned anew in every fit. Nothing of an outer fold
reaches what is chosen for it.

The models of the chosen inner folds predict the outer fold together. A model refitted on the whole training
part would be surer of itself than those the calibration was fitted to, networks above all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.evaluation.calibration import Platt
from kdfast.recipes.esrd.evaluation.metrics import auroc, best_f1_threshold
from kdfast.recipes.esrd.models import Model
from kdfast.recipes.esrd.tables import DataError

Build = Callable[[dict[str, Any]], Model]
Splits = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold results for the people of a task."""

    p: np.ndarray  # [n] calibrated probability
    threshold: np.ndarray  # [n] the one chosen for the fold
    fold: np.ndarray  # [n]
    chosen: list[dict[str, Any]]  # settings of each fold
    inner: float = float("nan")  # mean inner AUROC of the chosen settings: what models may be chosen by

    def to_json(self) -> dict[str, Any]:
        return {
            "p": self.p.tolist(),
            "threshold": self.threshold.tolist(),
            "fold": self.fold.tolist(),
            "chosen": self.chosen,
            "inner": self.inner,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Predictions:
        arrays = (np.asarray(stored[k]) for k in ("p", "threshold", "fold"))
        return cls(*arrays, stored["chosen"], stored["inner"])


def split(y: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> Splits:
    """(training rows, test rows) of each fold: people whole, classes in equal shares.

    DataError, with counts, if a fold would lack a class.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    for label, name in ((1, "positives"), (0, "negatives")):
        people = len(np.unique(groups[y == label]))
        if people < folds:
            raise DataError(
                f"{people} {name} among {len(np.unique(groups))} people cannot fill {folds} folds"
            )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes are checked below, by name
        splits = list(splitter.split(np.zeros(len(y)), y, groups))
    for number, (train, test) in enumerate(splits, 1):
        for part, rows in (("training part", train), ("test part", test)):
            for label, name in ((1, "positive"), (0, "negative")):
                if not (y[rows] == label).any():
                    raise DataError(
                        f"fold {number} of {folds} has no {name} in its {part} of {len(rows)} people"
                    )
    return splits


def nested_cv(
    task: Task,
    build: Build,
    grid: Sequence[dict[str, Any]] = ({},),
    *,
    folds: int = 5,
    inner: int = 3,
    seed: int = 0,
) -> Predictions:
    """Predictions for everybody in `task`. `build(params)` makes a fresh model; `grid` is what inner folds
    choose from.
    """
    groups = task.people["patient_id"].to_numpy()
    size = len(task.y)
    p, threshold, fold = np.full(size, np.nan), np.full(size, np.nan), np.zeros(size, dtype=np.int64)
    chosen, inner_scores = [], []
    for number, (train, test) in enumerate(split(task.y, groups, folds, seed)):
        x, y, weight = task.x[train], task.y[train], task.weight[train]
        tried = [
            (params, cross_fit(x, y, weight, groups[train], partial(build, params), inner, seed))
            for params in grid
        ]
        ranks = [auroc(y, fitted.crossed, weight) for _, fitted in tried]
        params, fitted = tried[int(np.argmax(ranks))]
        p[test] = expit(fitted.logits(task.x[test]))
        threshold[test] = best_f1_threshold(y, expit(fitted.crossed), weight)
        fold[test] = number
        chosen.append(dict(params))
        inner_scores.append(max(ranks))
    return Predictions(p, threshold, fold, chosen, float(np.mean(inner_scores)))


@dataclass(frozen=True)
class CrossFitted:
    """Models of several folds with one calibration; `crossed` [n] are calibrated logits of people by models
    that have not seen them.
    """

    models: list[Model]
    platt: Platt
    crossed: np.ndarray

    def logits(self, x: np.ndarray) -> np.ndarray:
        """[n] mean of the models' calibrated logits."""
        return np.mean([self.platt.slope * m.logits(x) + self.platt.intercept for m in self.models], axis=0)


def cross_fit(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    groups: np.ndarray,
    build: Callable[[], Model],
    folds: int,
    seed: int,
) -> CrossFitted:
    """One model a fold, trained on the other folds, calibrated together on the people each has not seen."""
    logits, models = np.full(len(y), np.nan), []
    for train, test in split(y, groups, folds, seed):
        models.append(build().fit(x[train], y[train], weight[train]))
        logits[test] = models[-1].logits(x[test])
    platt = Platt.fit(logits, y, weight)
    return CrossFitted(models, platt, platt.slope * logits + platt.intercept)
