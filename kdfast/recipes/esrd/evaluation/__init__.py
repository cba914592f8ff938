"""Evaluation: metrics with weights and intervals, calibration, nested cross-validation, subgroups."""

from kdfast.recipes.esrd.evaluation.calibration import Platt
from kdfast.recipes.esrd.evaluation.cv import Predictions, cross_logits, nested_cv, split
from kdfast.recipes.esrd.evaluation.metrics import (
    auprc,
    auroc,
    best_f1_threshold,
    bootstrap,
    calibration_curve,
    curve_points,
    net_benefit,
    scores,
)

__all__ = [
    "Platt",
    "Predictions",
    "auprc",
    "auroc",
    "best_f1_threshold",
    "bootstrap",
    "calibration_curve",
    "cross_logits",
    "curve_points",
    "nested_cv",
    "net_benefit",
    "scores",
    "split",
]
