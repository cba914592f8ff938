"""Numbers of the report from the results of the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import mean
from typing import Any

import numpy as np
from scipy.stats import rankdata

from kdfast.recipes.kan_select.protocol import ALL, kept

Results = Mapping[
    str, Sequence[Mapping[str, Any]]
]  # data set -> what `clean_fold` or `paper_scores` returned


def level_mean(
    folds: Sequence[Mapping[str, Any]], selector: str, predictor: str = "", level: int = 0
) -> float:
    """Mean score over folds, and over predictors and retention levels where none is named."""
    return mean(
        score
        for fold in folds
        for name, levels in fold["scores"][selector].items()
        for at, score in levels.items()
        if predictor in ("", name) and (level == 0 or selector == ALL or int(at) == level)
    )


def ranks(results: Results, selectors: Sequence[str]) -> dict[str, float]:
    """Mean place of each selector over the data sets, 1 is best; equals share their places."""
    table = np.array([[level_mean(folds, name) for name in selectors] for folds in results.values()])
    return dict(zip(selectors, rankdata(-table, axis=1).mean(0).tolist(), strict=True))


def overlap(folds: Sequence[Mapping[str, Any]], selector: str, level: int, features: int) -> float:
    """Mean Jaccard index of the features kept in two folds."""
    k = kept(level, features)
    choices = [set(fold["rankings"][selector][:k]) for fold in folds]
    return mean(len(a & b) / len(a | b) for a, b in combinations(choices, 2))


def redundancy(x: np.ndarray, folds: Sequence[Mapping[str, Any]], selector: str, level: int) -> float:
    """Mean |correlation| of two kept features over all rows; constant columns count as uncorrelated."""
    features = x.shape[1]
    z = x - x.mean(0)
    length = np.linalg.norm(z, axis=0)
    z = z / np.where(length > 0, length, 1)
    between = np.abs(z.T @ z)
    whole = list(range(features))
    choices = [
        whole if selector == ALL else fold["rankings"][selector][: kept(level, features)] for fold in folds
    ]
    return mean(_mean_pair(between[np.ix_(choice, choice)]) for choice in choices)


def _mean_pair(between: np.ndarray) -> float:
    count = len(between)
    return float(between[np.triu_indices(count, 1)].mean()) if count > 1 else 0.0


def seconds(folds: Sequence[Mapping[str, Any]], selector: str) -> float:
    """Mean time of one ranking."""
    return mean(fold["seconds"][selector] for fold in folds)
