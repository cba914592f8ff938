"""Importances of features: our four selectors, and the four that the paper compares them with.

    lasso    |coefficient| of LassoCV, or of L1 logistic regression (C = 0.1), one class against the rest
    forest   permutation importance of a random forest, on rows it did not see
    mi       mutual information with the target
    svm_rfe  recursive elimination by a linear support vector machine; the last to go is best

Every function looks only at the rows it is given.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import RFE, mutual_info_classif, mutual_info_regression
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LassoCV, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC, LinearSVR

OURS = {"l1": "KAN-L1", "l2": "KAN-L2", "si": "KAN-SI", "ko": "KAN-KO"}
OTHERS = {"lasso": "LASSO", "mi": "mutual information", "forest": "forest, permuted", "svm_rfe": "SVM-RFE"}
CALLED = OURS | OTHERS
_HOLDOUT = 0.2  # share of the rows that a forest is permuted on where none are given


@dataclass(frozen=True)
class Rows:
    """Rows to fit on, and to score on where a method wants unseen ones (None: held out of the former)."""

    x: np.ndarray
    y: np.ndarray
    task: str
    unseen_x: np.ndarray | None = None
    unseen_y: np.ndarray | None = None


def importances(name: str, rows: Rows, *, seed: int, trees: int = 200) -> np.ndarray:
    """One of OTHERS: [d], >= 0 with sum 1 unless all are 0, larger is more important."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # liblinear at its limit ranks well enough
        raw = (
            {"lasso": _lasso, "mi": _mutual_information, "svm_rfe": _svm_rfe}[name](rows, seed)
            if (name != "forest")
            else _forest(rows, seed, trees)
        )
    raw = np.clip(raw, 0, None)
    return raw / (raw.sum() or 1)


def best_first(importance: np.ndarray) -> np.ndarray:
    """Numbers of the features, the most important first, equals in the order of columns."""
    return np.argsort(-importance, kind="stable")


def _scaled(rows: Rows) -> np.ndarray:
    return StandardScaler().fit_transform(rows.x)


def _lasso(rows: Rows, seed: int) -> np.ndarray:
    if rows.task == "regression":
        return np.abs(LassoCV(cv=5, random_state=seed).fit(_scaled(rows), rows.y).coef_)
    model = LogisticRegression(l1_ratio=1, C=0.1, solver="liblinear", random_state=seed)
    each = OneVsRestClassifier(model).fit(_scaled(rows), rows.y).estimators_
    return np.abs([one.coef_[0] for one in each]).mean(0)


def _mutual_information(rows: Rows, seed: int) -> np.ndarray:
    measure = mutual_info_classif if rows.task == "classification" else mutual_info_regression
    return measure(rows.x, rows.y, random_state=seed)


def _svm_rfe(rows: Rows, seed: int) -> np.ndarray:
    machine = LinearSVC if rows.task == "classification" else LinearSVR
    model = machine(C=1.0, random_state=seed)
    ranks = RFE(model, n_features_to_select=1, step=0.1).fit(_scaled(rows), rows.y).ranking_
    return (ranks.max() + 1 - ranks).astype(np.float64)


def _forest(rows: Rows, seed: int, trees: int) -> np.ndarray:
    x, y, unseen_x, unseen_y = rows.x, rows.y, rows.unseen_x, rows.unseen_y
    if unseen_x is None:
        classes = y if rows.task == "classification" and np.bincount(y).min() > 1 else None
        x, unseen_x, y, unseen_y = train_test_split(
            x, y, test_size=_HOLDOUT, random_state=seed, stratify=classes
        )
    forest = RandomForestClassifier if rows.task == "classification" else RandomForestRegressor
    model = forest(trees, random_state=seed).fit(x, y)
    return permutation_importance(model, unseen_x, unseen_y, n_repeats=5, random_state=seed).importances_mean
