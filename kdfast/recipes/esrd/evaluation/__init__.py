"""Evaluation: metrics with weights and intervals, calibration, nested cross-validation, subgroups."""

from kdfast.recipes.esrd.evaluation.calibration import Platt
from kdfast.recipes.esrd.evaluation.cv import CrossFitted, Predictions, cross_fit, nested_cv, split
from kdfast.recipes.esrd.evaluation.metrics import (
    auprc,
    auroc,
    best_f1_threshold,
    bootstrap,
    calibration_curve,
    curve_points,
    net_benefit,
    score_intervals,
    scores,
)

__all__ = [
    "CrossFitted",
    "Platt",
    "Predictions",
    "auprc",
    "auroc",
    "best_f1_threshold",
    "bootstrap",
    "calibration_curve",
    "cross_fit",
    "curve_points",
    "nested_cv",
    "net_benefit",
    "score_intervals",
    "scores",
    "split",
]
