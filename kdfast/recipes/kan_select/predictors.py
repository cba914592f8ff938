"""The models that judge a choice of features, with the paper's settings."""

from __future__ import annotations

from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PREDICTORS = ("linear", "forest", "boosting", "xgboost")
METRIC = {"classification": "f1_macro", "regression": "r2"}  # scikit-learn's names
LABEL = {"classification": "macro-F1", "regression": "R²"}


def predictor(name: str, task: str, *, trees: int, seed: int, scale: bool) -> BaseEstimator:
    """An unfitted model: one of PREDICTORS.

    Args:
        trees: of the forest; boosting has half as many and XGBoost half as many again (paper: 200, 100, 300).
        scale: put a StandardScaler in front of the linear models; the paper does not.
    """
    labels = task == "classification"
    if name == "linear":
        if scale:
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000) if labels else Ridge())
        # The same optimum as the default solver's, which may need all 5000 steps on unscaled columns.
        return LogisticRegression(max_iter=5000, solver="newton-cholesky") if labels else Ridge()
    if name == "forest":
        return (RandomForestClassifier if labels else RandomForestRegressor)(trees, random_state=seed)
    if name == "boosting":
        boosting = GradientBoostingClassifier if labels else GradientBoostingRegressor
        return boosting(n_estimators=max(1, trees // 2), random_state=seed)
    from xgboost import XGBClassifier, XGBRegressor

    return (XGBClassifier if labels else XGBRegressor)(
        n_estimators=trees + trees // 2,
        learning_rate=0.05,
        max_depth=6,
        subsample=0.9,
        colsample_bytree=0.9,
        reg_lambda=1.0,
        random_state=seed,
        n_jobs=1,
    )
