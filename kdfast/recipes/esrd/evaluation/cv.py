"""Nested cross-validation, with people as the unit.

Outer folds give every person one prediction by models that have not seen that person. Within each outer
training part, inner folds choose the settings, fit the calibration and choose the threshold; imputation,
scaling and class weights are part of the model and learned anew in every fit. Nothing of an outer fold
reaches what is chosen for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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

    def to_json(self) -> dict[str, Any]:
        return {
            "p": self.p.tolist(),
            "threshold": self.threshold.tolist(),
            "fold": self.fold.tolist(),
            "chosen": self.chosen,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Predictions:
        return cls(*(np.asarray(stored[k]) for k in ("p", "threshold", "fold")), stored["chosen"])


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
    chosen = []
    for number, (train, test) in enumerate(split(task.y, groups, folds, seed)):
        x, y, weight = task.x[train], task.y[train], task.weight[train]
        params, logits = choose(x, y, weight, groups[train], build, grid, inner=inner, seed=seed)
        platt = Platt.fit(logits, y, weight)
        model = build(params).fit(x, y, weight)
        p[test] = platt(model.logits(task.x[test]))
        threshold[test] = best_f1_threshold(y, platt(logits), weight)
        fold[test] = number
        chosen.append(dict(params))
    return Predictions(p, threshold, fold, chosen)


def choose(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    groups: np.ndarray,
    build: Build,
    grid: Sequence[dict[str, Any]],
    *,
    inner: int,
    seed: int,
) -> tuple[dict[str, Any], np.ndarray]:
    """The settings with the best inner AUROC, and their out-of-fold logits [n]."""
    found = [
        (params, cross_logits(x, y, weight, groups, lambda p=params: build(p), inner, seed))
        for params in grid
    ]
    return max(found, key=lambda item: auroc(y, item[1], weight))


def cross_logits(
    x: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    groups: np.ndarray,
    build: Callable[[], Model],
    folds: int,
    seed: int,
) -> np.ndarray:
    """[n] logits of each person by a model trained without that person."""
    logits = np.full(len(y), np.nan)
    for train, test in split(y, groups, folds, seed):
        logits[test] = build().fit(x[train], y[train], weight[train]).logits(x[test])
    return logits
