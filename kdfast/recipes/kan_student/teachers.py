"""Teachers of scikit-learn, and what they say about rows they have not seen."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TEACHERS = ("boosting", "mlp")
_LEAST = 1e-6  # probabilities below are taken for it: the logarithm of 0 teaches nothing
_FOLDS = 5


def make_teacher(name: str, task: str, *, trees: int, seed: int) -> BaseEstimator:
    """An unfitted teacher.

    Args:
        name: "boosting", histogram gradient boosting, or "mlp", two hidden layers of 64 on scaled features.
        task: "classification" or "regression".
        trees: boosting rounds, or passes of the MLP.
    """
    labels = task == "classification"
    if name == "boosting":
        boosting = HistGradientBoostingClassifier if labels else HistGradientBoostingRegressor
        return boosting(max_iter=trees, early_stopping=False, random_state=seed)
    network = MLPClassifier if labels else MLPRegressor
    return make_pipeline(
        StandardScaler(), network(hidden_layer_sizes=(64, 64), max_iter=trees, random_state=seed)
    )


def outputs(teacher: BaseEstimator, x: np.ndarray) -> np.ndarray:
    """Log-probabilities [n, classes], or values [n, 1], of a fitted teacher, float32."""
    said = teacher.predict_proba(x) if hasattr(teacher, "predict_proba") else teacher.predict(x)
    return _as_outputs(said)


def out_of_fold(teacher: BaseEstimator, x: np.ndarray, y: np.ndarray, *, seed: int) -> np.ndarray:
    """As `outputs`, of the rows the teacher is to be fitted on, each by a copy that was fitted without it."""
    labels = hasattr(teacher, "predict_proba")
    folds = (StratifiedKFold if labels else KFold)(_FOLDS, shuffle=True, random_state=seed)
    method = "predict_proba" if labels else "predict"
    with _until_the_last_pass():
        return _as_outputs(cross_val_predict(teacher, x, y, cv=folds, method=method))


def fitted(teacher: BaseEstimator, x: np.ndarray, y: np.ndarray) -> BaseEstimator:
    """The teacher, fitted."""
    with _until_the_last_pass():
        return teacher.fit(x, y)


@contextmanager
def _until_the_last_pass() -> Iterator[None]:
    """An MLP that uses up the passes it was given is no cause for a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _as_outputs(said: np.ndarray) -> np.ndarray:
    if said.ndim == 1:
        return said[:, None].astype(np.float32)
    return np.log(np.clip(said, _LEAST, None)).astype(np.float32)
