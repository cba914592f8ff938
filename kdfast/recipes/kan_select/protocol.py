"""Two ways to judge feature selectors.

    clean   for each fold: rank by its training rows alone, train on the best k columns of these rows, score
            on the fold's test rows. Nothing of a test row reaches a choice.
    paper   rank by all rows (mean over folds of the importances on the fold's validation rows), then
            cross-validate the predictors on the chosen columns of the same rows. The choice has seen every
            test row, so that scores come out too high; here only to compare with the published figures.

k = ceil(p d) for each retention level p.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import LabelEncoder

from kdfast.recipes.common.seeds import derive
from kdfast.recipes.kan_select.predictors import METRIC, predictor
from kdfast.recipes.kan_select.rankings import OTHERS, OURS, Rows, best_first, importances
from kdfast.recipes.kan_select.tables import Table
from kdfast.select import KANSelector, scores
from kdfast.select.training import task_loss

ALL = "all"  # stands for every feature, where selectors are named


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is compared, and how closely."""

    selectors: tuple[str, ...]  # of OURS and OTHERS
    predictors: tuple[str, ...]
    levels: tuple[int, ...]  # retention in per cent
    trees: int
    criterion: str
    epochs: int
    lr: float
    batch_size: int
    device: str = "cpu"


def folds(table: Table, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training rows, test rows) of each fold, shuffled, by class in classification."""
    cut = StratifiedKFold if table.task == "classification" else KFold
    return list(cut(count, shuffle=True, random_state=seed).split(table.x, table.y))


def kept(percent: int, features: int) -> int:
    """k = ceil(p d), at least 1."""
    return max(1, math.ceil(percent * features / 100))


def clean_fold(
    table: Table, train: np.ndarray, test: np.ndarray, setting: Setting, seed: int
) -> dict[str, Any]:
    """Rankings from the rows `train`, scores on the rows `test`.

    Returns {"scores": {selector: {predictor: {level: score}}}, "rankings": {selector: features, best first},
    "seconds": {selector: of ranking}}; under "all" every feature, at level 100.
    """
    x, y = table.x[train], table.y[train]
    rankings, seconds = {}, {}
    for name in setting.selectors:
        start = time.perf_counter()
        rankings[name] = _ranking(name, table, x, y, setting, seed).tolist()
        seconds[name] = time.perf_counter() - start

    judge = _Judge(table, [(train, test)], setting, seed, scale=True)
    return {"scores": judge.all_scores(rankings), "rankings": rankings, "seconds": seconds}


def paper_scores(
    table: Table, parts: Sequence[tuple[np.ndarray, np.ndarray]], setting: Setting, seed: int
) -> dict[str, Any]:
    """The paper's protocol on the folds `parts`. Returns as `clean_fold`, without seconds."""
    sums: dict[str, np.ndarray] = {}
    for train, validation in parts:
        for name, importance in _paper_importances(table, train, validation, setting, seed):
            sums[name] = sums.get(name, 0) + importance
    rankings = {name: best_first(total).tolist() for name, total in sums.items()}
    judge = _Judge(table, parts, setting, seed, scale=False)
    return {"scores": judge.all_scores(rankings), "rankings": rankings}


def _selector(setting: Setting, seed: int, **options: Any) -> KANSelector:
    return KANSelector(
        max_epochs=setting.epochs,
        lr=setting.lr,
        batch_size=setting.batch_size,
        random_state=seed,
        device=setting.device,
        **options,
    )


def _ranking(
    name: str, table: Table, x: np.ndarray, y: np.ndarray, setting: Setting, seed: int
) -> np.ndarray:
    if name in OURS:
        selector = _selector(setting, seed, method=name, criterion=setting.criterion, task=table.task)
        return np.argsort(selector.fit(x, y).ranking_)
    return best_first(importances(name, Rows(x, y, table.task), seed=seed, trees=setting.trees))


def _paper_importances(
    table: Table, train: np.ndarray, validation: np.ndarray, setting: Setting, seed: int
) -> Iterator[tuple[str, np.ndarray]]:
    """As the authors' code: one network for all four, its activations, signed slopes, on validation rows."""
    x, y, task = table.x, table.y, table.task
    ours = [name for name in setting.selectors if name in OURS]
    if ours:
        fitted = _selector(
            setting, seed, task=task, criterion="activation", scaling="standard", importance_on="train"
        ).fit(x[train], y[train])
        points = torch.as_tensor(fitted.scaler_.transform(x[validation]), dtype=torch.float32)
        target = _encoded(task, y[train], y[validation])
        loss = task_loss(task)
        model = fitted.model_
        compute = {
            "l1": lambda: scores.activation_score(model, points, 1),
            "l2": lambda: scores.activation_score(model, points, 2),
            "si": lambda: scores.sensitivity_score(model, points, signed=True),
            "ko": lambda: scores.knockout_score(model, points, lambda outputs: loss(outputs, target)),
        }
        for name in ours:
            yield name, scores.normalized(compute[name]()).double().numpy()
    rows = Rows(x[train], y[train], task, x[validation], y[validation])
    for name in setting.selectors:
        if name in OTHERS:
            yield name, importances(name, rows, seed=seed, trees=setting.trees)


def _encoded(task: str, train: np.ndarray, validation: np.ndarray) -> torch.Tensor:
    """The target as KANSelector encodes it: class numbers, or in units of the training rows' spread."""
    if task == "classification":
        return torch.as_tensor(LabelEncoder().fit(train).transform(validation))
    return torch.as_tensor((validation - train.mean()) / train.std(), dtype=torch.float32)


class _Judge:
    """Scores of choices of columns, each computed once: selectors often agree."""

    def __init__(
        self,
        table: Table,
        parts: Sequence[tuple[np.ndarray, np.ndarray]],
        setting: Setting,
        seed: int,
        *,
        scale: bool,
    ) -> None:
        self._table, self._parts, self._setting, self._seed = table, parts, setting, seed
        self._scale = scale
        self._known: dict[tuple[str, tuple[int, ...]], float] = {}

    def all_scores(self, rankings: dict[str, list[int]]) -> dict[str, dict[str, dict[str, float]]]:
        """Selector -> predictor -> level -> score, and all features first."""
        features = self._table.x.shape[1]
        found = {
            ALL: {name: {"100": self._score(name, range(features))} for name in self._setting.predictors}
        }
        for selector, order in rankings.items():
            found[selector] = {
                name: {
                    str(level): self._score(name, order[: kept(level, features)])
                    for level in self._setting.levels
                }
                for name in self._setting.predictors
            }
        return found

    def _score(self, name: str, columns: Sequence[int]) -> float:
        key = name, tuple(sorted(columns))
        if key not in self._known:
            self._known[key] = float(np.mean([self._fold_score(*key, *part) for part in self._parts]))
        return self._known[key]

    def _fold_score(self, name: str, columns: tuple[int, ...], train: np.ndarray, test: np.ndarray) -> float:
        x, y, task = self._table.x[:, list(columns)], self._table.y, self._table.task
        seed = derive(self._seed, name)
        model = predictor(name, task, trees=self._setting.trees, seed=seed, scale=self._scale)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # unscaled, as in the paper, it may not end
            model.fit(x[train], y[train])
        return float(get_scorer(METRIC[task])(model, x[test], y[test]))
