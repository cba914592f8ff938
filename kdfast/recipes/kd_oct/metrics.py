"""Metrics of a fold and over folds: macro one-vs-rest, mean and population standard deviation (ddof 0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.metrics import confusion_matrix, roc_auc_score


def of_matrix(matrix: np.ndarray) -> dict[str, float]:
    """Confusion matrix [K, K] (rows: truth) -> accuracy, macro sensitivity and specificity, shares.

    A class that is not in the fold has no sensitivity: it is left out of the mean.
    """
    matrix = np.asarray(matrix, float)
    total, right = matrix.sum(), np.diag(matrix)
    positives, called = matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = right / positives
        negatives = total - positives
        specificity = (negatives - (called - right)) / negatives
    found = {"accuracy": right.sum() / total}
    found |= {"sensitivity": float(np.nanmean(sensitivity)), "specificity": float(np.nanmean(specificity))}
    return {name: float(value) for name, value in found.items()}


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, bins: int = 10) -> float:
    """Expected calibration error of the most probable class: mean over bins of |accuracy - confidence|."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].mean() - confidence[place == b].mean()) * (place == b).mean()
            for b in range(bins) if (place == b).any()]  # fmt: skip
    return float(sum(gaps))


def fold_metrics(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """Probabilities [N, K] and labels [N] -> of_matrix, AUC (macro one-vs-rest), ECE and the matrix."""
    classes = probabilities.shape[1]
    matrix = confusion_matrix(labels, probabilities.argmax(1), labels=range(classes))
    present = [c for c in range(classes) if 0 < (labels == c).sum() < len(labels)]
    auc = np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]) if present else np.nan
    more = {"auc": float(auc), "ece": calibration_error(probabilities, labels), "matrix": matrix.tolist()}
    return of_matrix(matrix) | more


def summary(folds: Sequence[Mapping[str, object]], names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Metric -> mean and population standard deviation over folds."""
    values = {name: np.array([float(fold[name]) for fold in folds]) for name in names}
    return {name: (float(v.mean()), float(v.std())) for name, v in values.items()}
