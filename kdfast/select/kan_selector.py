"""KANSelector: a scikit-learn transformer that keeps the features a small KAN finds important."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from kdfast.nn import KAN
from kdfast.select import scores
from kdfast.select.options import check_options, count_to_keep
from kdfast.select.training import task_loss, train

MANY_VALUES = 20  # a numeric target with more values than this,
FEW_ROWS = 20  # and fewer rows of each on average, is a quantity


class KANSelector(SelectorMixin, BaseEstimator):
    """Keeps the features that matter most to a small Kolmogorov-Arnold network.

    `fit` scales the features, trains a KAN [d, hidden, outputs] on the target and ranks the features by its
    first layer's splines ("l1", "l2"), by the outputs' slopes ("si") or by the loss without a feature ("ko"):
    Akazan and Mbingui, "Feature selection using Kolmogorov-Arnold networks" (arXiv 2509.23366). Formulas:
    `kdfast.select.scores`. Only rows given to `fit` are looked at, so in a Pipeline under cross-validation
    the selection stays inside each training fold. The same `random_state` gives the same result on one
    machine, and torch's global random state is not touched.

    Args:
        method: "l1", "l2", "si" or "ko".
        criterion: for l1 and l2, the norm of the spline "coefficient"s, as the paper's text says, or of the
            edges' "activation"s, as its code does; they rank differently. si and ko have one form.
        n_features_to_select: a count; a share in (0, 1], rounded up; or "auto", those above the mean.
        task: "classification", "regression" or "auto": by scikit-learn's type of target, where numbers with
            more than 20 values and fewer than 20 rows of each count as measured ("regression").
        hidden: units of the hidden layer, or "2d+1", the paper's.
        grid_size, degree: intervals and degree of the splines; the paper's code has 2 and 1.
        scaling: features to mean 0 and variance 1 with the first layer's knots at their quantiles, so that
            skewed ones use all of their spline ("quantile"); with knots evenly in [-1, 1], as in the paper's
            code ("standard"); or to [-1, 1] ("minmax").
        max_epochs, lr, batch_size: of Adam.
        regularization: weight of the mean |spline coefficient| of the first layer in the loss.
        importance_on: rows that activation, si and ko are computed on: "holdout", which training did not see,
            or "train". Coefficients need no rows, so with them training has all.
        eval_fraction: share of the rows in the hold-out, stratified by class where that is possible.
        random_state: int, RandomState or None, as in scikit-learn.
        device: where to train, "cpu" or "cuda"; the fitted model is on the CPU.
        verbose: print the loss about ten times.

    Attributes:
        feature_importances_: [d], >= 0, with sum 1 (all 0 where no feature matters at all).
        scores_: [d], raw scores; for ko they may be negative.
        ranking_: [d], 1 for the most important feature, d for the least; equals in the order of columns.
        support_: [d], bool, the features kept; n_features_: how many they are.
        model_: the KAN; scaler_: the fitted scaler in front of it; n_iter_: the epochs trained.
        classes_: the class labels, in classification; task_: the task.
        n_features_in_, feature_names_in_: as in scikit-learn.

    Raises ValueError or TypeError for bad options, and scikit-learn's errors for bad data: NaN, infinity,
    complex numbers, sparse matrices, one row, one class. RuntimeError for a device that torch does not have.

    Example:
        make_pipeline(KANSelector("ko", random_state=0), LogisticRegression())
    """

    def __init__(
        self,
        method: str = "l1",
        criterion: str = "coefficient",
        n_features_to_select: float | int | str = 0.4,
        task: str = "auto",
        *,
        hidden: int | str = "2d+1",
        grid_size: int = 2,
        degree: int = 1,
        scaling: str = "quantile",
        max_epochs: int = 100,
        lr: float = 1e-3,
        batch_size: int = 64,
        regularization: float = 0.0,
        importance_on: str = "holdout",
        eval_fraction: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
        device: str | torch.device = "cpu",
        verbose: bool | int = 0,
    ) -> None:
        self.method = method
        self.criterion = criterion
        self.n_features_to_select = n_features_to_select
        self.task = task
        self.hidden = hidden
        self.grid_size = grid_size
        self.degree = degree
        self.scaling = scaling
        self.max_epochs = max_epochs
        self.lr = lr
        self.batch_size = batch_size
        self.regularization = regularization
        self.importance_on = importance_on
        self.eval_fraction = eval_fraction
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> KANSelector:
        """Rank the features of X [n, d] by what they tell about y [n], class labels or numbers."""
        check_options(self)
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), ensure_min_samples=2)
        keep = count_to_keep(self.n_features_to_select, X.shape[1])
        target = self._encoded(y)
        seed, split = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=2).tolist()
        rows, scored = self._split(target, split)
        self.scaler_ = (MinMaxScaler((-1, 1)) if self.scaling == "minmax" else StandardScaler()).fit(X[rows])
        device = torch.device(self.device)
        points = torch.as_tensor(self.scaler_.transform(X), dtype=torch.float32).to(device)
        target = torch.as_tensor(target).to(device)
        self.model_ = self._trained(points[rows], target[rows], seed)
        self.n_iter_ = self.max_epochs
        raw = self._score(points[scored], target[scored])
        self.model_.cpu()
        self.scores_ = raw.double().cpu().numpy()
        self._rank(keep)
        return self

    def _encoded(self, y: np.ndarray) -> np.ndarray:
        """Settle task_; class numbers (int64) and classes_, or y with mean 0 and variance 1 (float32)."""
        self.task_ = _task_of(y) if self.task == "auto" else self.task
        vars(self).pop("classes_", None)  # of an earlier fit
        if self.task_ == "regression":
            y = np.asarray(y, np.float64)
            return ((y - y.mean()) / (y.std() or 1)).astype(np.float32)
        check_classification_targets(y)
        self.classes_, target = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got one: {self.classes_[0]!r}")
        return target.astype(np.int64)

    def _split(self, target: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows to train on, and of those to score on."""
        rows = np.arange(len(target))
        needs_rows = self.criterion == "activation" or self.method in ("si", "ko")
        if not needs_rows or self.importance_on == "train":
            return rows, rows
        count = min(max(1, round(self.eval_fraction * len(rows))), len(rows) - 1)
        stratify = None
        if self.task_ == "classification":
            sizes = np.bincount(target)
            stratify = target if sizes.min() > 1 and len(sizes) <= min(count, len(rows) - count) else None
        return tuple(train_test_split(rows, test_size=count, random_state=seed, stratify=stratify))

    def _trained(self, points: Tensor, target: Tensor, seed: int) -> KAN:
        every = max(1, self.max_epochs // 10)

        def report(epoch: int, loss: float) -> None:
            if self.verbose and (epoch % every == 0 or epoch == self.max_epochs):
                print(f"[KANSelector] epoch {epoch}/{self.max_epochs}, loss {loss:.4g}")

        return train(
            points,
            target,
            outputs=len(self.classes_) if self.task_ == "classification" else 1,
            loss=task_loss(self.task_),
            hidden=2 * points.size(1) + 1 if self.hidden == "2d+1" else self.hidden,
            grid_size=self.grid_size,
            degree=self.degree,
            place_grid=self.scaling == "quantile",
            max_epochs=self.max_epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            regularization=self.regularization,
            seed=seed,
            report=report,
        )

    def _score(self, points: Tensor, target: Tensor) -> Tensor:
        if self.method == "si":
            return scores.sensitivity_score(self.model_, points)
        if self.method == "ko":
            loss = task_loss(self.task_)
            return scores.knockout_score(self.model_, points, lambda outputs: loss(outputs, target))
        order = 1 if self.method == "l1" else 2
        if self.criterion == "coefficient":
            return scores.coefficient_score(self.model_, order)
        return scores.activation_score(self.model_, points, order)

    def _rank(self, keep: int | None) -> None:
        score = np.maximum(self.scores_, 0)
        self.feature_importances_ = score / (score.sum() or 1)
        best_first = np.argsort(-self.feature_importances_, kind="stable")
        self.ranking_ = np.empty(len(score), np.int64)
        self.ranking_[best_first] = np.arange(1, len(score) + 1)
        if keep is None:
            keep = max(1, int((self.feature_importances_ > self.feature_importances_.mean()).sum()))
        self.support_ = self.ranking_ <= keep
        self.n_features_ = keep

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _task_of(y: np.ndarray) -> str:
    """ "classification" or "regression": whole numbers with many values and few rows of each are measured."""
    kind = type_of_target(y, input_name="y")
    if kind == "continuous":
        return "regression"
    if kind == "multiclass" and np.issubdtype(np.asarray(y).dtype, np.number):
        values = len(np.unique(y))
        if values > MANY_VALUES and values * FEW_ROWS > len(y):
            return "regression"
    return "classification"
