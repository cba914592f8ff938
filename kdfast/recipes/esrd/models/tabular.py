"""scikit-learn's, XGBoost's and LightGBM's estimators with this recipe's defaults, behind what they need."""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdfast.recipes.esrd.models.imputation import ChainedImputer


def _logistic(seed: int, C: float = 0.1, **_: Any) -> Any:
    return LogisticRegression(C=C, max_iter=2000, random_state=seed)


def _forest(seed: int, **params: Any) -> Any:
    defaults = {"n_estimators": 200, "min_samples_leaf": 5, "max_features": "sqrt", "n_jobs": 1}
    return RandomForestClassifier(random_state=seed, **{**defaults, **params})


def _xgboost(seed: int, **params: Any) -> Any:
    from xgboost import XGBClassifier

    defaults = {
        "n_estimators": 150,
        "max_depth": 3,
        "learning_rate": 0.06,
        "subsample": 0.8,
        "colsample_bytree": 0.6,
    }
    return XGBClassifier(random_state=seed, n_jobs=1, **{**defaults, "min_child_weight": 5, **params})


def _lightgbm(seed: int, **params: Any) -> Any:
    from lightgbm import LGBMClassifier

    defaults = {
        "n_estimators": 150,
        "num_leaves": 8,
        "learning_rate": 0.06,
        "subsample": 0.8,
        "subsample_freq": 1,
    }
    defaults |= {"colsample_bytree": 0.6, "min_child_samples": 15, "verbose": -1, "deterministic": True}
    return LGBMClassifier(random_state=seed, n_jobs=1, **{**defaults, **params})


def tabular(name: str, seed: int, imputation: str, params: dict[str, Any]) -> Any:
    """Scaled, with gaps filled, as far as the estimator needs it: boosting reads gaps as they are."""
    estimator = TABULAR[name](seed, **params)
    if imputation == "mice":
        return make_pipeline(StandardScaler(), ChainedImputer(), estimator)
    if name in ("xgboost", "lightgbm"):
        return estimator
    gaps = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(gaps, StandardScaler(), estimator)


TABULAR = {"logistic": _logistic, "random_forest": _forest, "xgboost": _xgboost, "lightgbm": _lightgbm}
TREES = ("random_forest", "xgboost", "lightgbm")
