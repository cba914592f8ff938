"""Discrimination, calibration and usefulness of predicted probabilities, with weights (see cohort.py on
censoring).

scikit-learn's metrics where it has them and time does not matter; AUROC, expected calibration error,
calibration curves with weights and net benefit (Vickers and Elkin, 2006) are a few lines here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    roc_curve,
)

Scores = dict[str, float]


def scores(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, threshold: np.ndarray | float = 0.5
) -> Scores:
    """All metrics of probabilities p [n] for labels y [n]; `threshold` may differ by row (one a fold).

    Ratios with an empty denominator are NaN. ValueError if only one class is present.
    """
    y, p, weight = _arrays(y, p, weight)
    return {
        "auroc": auroc(y, p, weight),
        "auprc": auprc(y, p, weight),
        "brier": float(brier_score_loss(y, p, sample_weight=weight)),
        "ece": calibration_error(y, p, weight),
        "observed_to_expected": _ratio((weight * y).sum(), (weight * p).sum()),
        "f1_at_half": at_threshold(y, p, weight, 0.5)["f1"],
        **at_threshold(y, p, weight, threshold),
    }


def auroc(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve: P(a case's p > a control's) + P(equal) / 2. ValueError if only one class is
    present. Thousands of resamples ask for it, and scikit-learn's takes twenty times as long on few people.
    """
    if np.min(y) == np.max(y):
        raise ValueError(f"y: all {len(y)} labels are {int(np.max(y))}; both classes are needed")
    y, p, weight = _arrays(y, p, weight)
    values, rank = np.unique(p, return_inverse=True)
    cases = np.bincount(rank, weights=weight * (y == 1), minlength=len(values))
    controls = np.bincount(rank, weights=weight * (y == 0), minlength=len(values))
    below = np.cumsum(controls) - controls
    return float((cases * (below + controls / 2)).sum() / (cases.sum() * controls.sum()))


def auprc(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Average precision, the step-wise area under the precision-recall curve."""
    return float(average_precision_score(y, p, sample_weight=weight))


def at_threshold(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, threshold: np.ndarray | float = 0.5
) -> Scores:
    """What calling p >= threshold positive gives."""
    y, p, weight = _arrays(y, p, weight)
    called = p >= threshold
    tp, fp = (weight * (called & (y == 1))).sum(), (weight * (called & (y == 0))).sum()
    fn, tn = (weight * (~called & (y == 1))).sum(), (weight * (~called & (y == 0))).sum()
    return {
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "accuracy": _ratio(tp + tn, tp + fp + fn + tn),
    }


def calibration_error(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, bins: int = 10
) -> float:
    """Expected calibration error over `bins` bins of equal width."""
    y, p, weight = _arrays(y, p, weight)
    bin_of = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)  # (lower, upper]
    gap = np.bincount(bin_of, weights=weight * (y - p), minlength=bins)
    return float(np.abs(gap).sum() / weight.sum())


def calibration_curve(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, bins: int = 10
) -> tuple[list[float], list[float]]:
    """Mean predicted and observed risk in `bins` groups of people of equal size, from low to high risk."""
    y, p, weight = _arrays(y, p, weight)
    groups = [g for g in np.array_split(np.argsort(p, kind="stable"), bins) if len(g)]
    return (
        [float(np.average(p[g], weights=weight[g])) for g in groups],
        [float(np.average(y[g], weights=weight[g])) for g in groups],
    )


def net_benefit(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None, *, thresholds: np.ndarray
) -> dict[str, list[float]]:
    """Decision curves at `thresholds` in (0, 1): treating by the model, everybody, nobody."""
    y, p, weight = _arrays(y, p, weight)
    total = weight.sum()
    model, everybody = [], []
    for t in thresholds:
        odds, called = t / (1 - t), p >= t
        model.append(
            float((weight * (called & (y == 1))).sum() - odds * (weight * (called & (y == 0))).sum()) / total
        )
        everybody.append(float((weight * y).sum() - odds * (weight * (1 - y)).sum()) / total)
    return {"model": model, "everybody": everybody, "nobody": [0.0] * len(thresholds)}


def best_f1_threshold(y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The threshold with the highest F1. Choose it on other people than those it is used for."""
    precision, recall, thresholds = precision_recall_curve(y, p, sample_weight=weight)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[min(int(f1[:-1].argmax()), len(thresholds) - 1)])


def curve_points(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None
) -> dict[str, tuple[list, list]]:
    """ROC (1 - specificity, sensitivity) and PR (recall, precision) curves for drawing."""
    fpr, tpr, _ = roc_curve(y, p, sample_weight=weight)
    precision, recall, _ = precision_recall_curve(y, p, sample_weight=weight)
    return {"roc": (fpr.tolist(), tpr.tolist()), "pr": (recall[::-1].tolist(), precision[::-1].tolist())}


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    people: int,
    *,
    rounds: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of `statistic(rows)` over resampled people; rounds where it is undefined are left
    out, and where it is in most, the interval is NaN.

    Pass the same seed for two statistics, or one of a difference, to compare models on the same resamples.
    """
    draw = np.random.default_rng(seed)
    values = np.array([_or_nan(statistic, draw.integers(0, people, people)) for _ in range(rounds)])
    return _percentiles(values, rounds, level)


def score_intervals(
    y: np.ndarray,
    p: np.ndarray,
    weight: np.ndarray | None = None,
    *,
    threshold: np.ndarray | float = 0.5,
    rounds: int = 200,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of all of `scores` over resampled people, each person with its threshold."""
    y, p, weight = _arrays(y, p, weight)
    threshold, draw = np.broadcast_to(threshold, y.shape), np.random.default_rng(seed)
    samples = (draw.integers(0, len(y), len(y)) for _ in range(rounds))
    found = [
        scores(y[i], p[i], weight[i], threshold=threshold[i]) for i in samples if 0 < y[i].sum() < len(i)
    ]
    names = scores(y, p, weight, threshold=threshold)
    values = {name: np.array([row[name] for row in found]) for name in names}
    return {name: _percentiles(column, rounds) for name, column in values.items()}


def _percentiles(values: np.ndarray, rounds: int, level: float = 0.95) -> tuple[float, float]:
    """NaN where fewer than half of the rounds gave a value."""
    known = values[np.isfinite(values)]
    if len(known) < rounds / 2:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _or_nan(statistic: Callable[[np.ndarray], float], rows: np.ndarray) -> float:
    try:
        return float(statistic(rows))
    except ValueError:  # a resample with one class only
        return float("nan")


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else float("nan")


def _arrays(
    y: np.ndarray, p: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, p = np.asarray(y).astype(np.int64), np.asarray(p, dtype=np.float64)
    return y, p, np.ones(len(y)) if weight is None else np.asarray(weight, dtype=np.float64)
