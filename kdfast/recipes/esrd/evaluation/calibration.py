"""Logits to probabilities: Platt's logistic map, fitted on people the model has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class Platt:
    """p = 1 / (1 + exp(-(slope * logit + intercept)))."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, logits: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Platt:
        """A rising map: where the logits say nothing (or the opposite), the slope is nearly 0."""
        model = LogisticRegression(C=1e6, max_iter=1000).fit(logits[:, None], y, sample_weight=weight)
        return cls(max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0]))

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        return expit(self.slope * np.asarray(logits) + self.intercept)
