"""KD-OCT: a large network's grading of retinal OCT scans, in a small one (Nourbakhsh et al., 2025).

    teacher: focal loss with balanced class weights, stochastic weight averaging, strong augmentation
    student: 0.3 CE(s, y) + 0.7 T^2 KL(softmax(t / T) || softmax(s / T)), T = 4

Cross-validation by patient: the same folds, written once, for teacher, student alone and distilled student,
so that no test patient is ever trained on. Data: your NEH, UCSD or OCTMNIST folder; without one, graded
images of solar cells (elpv: real, grey, imbalanced) or drawn B-scans (synthetic). Not a medical device.
Importable:

    losses     focal loss in both forms, balanced weights, the distillation loss
    oct_data   load: OctSet of a folder (NEH, UCSD, OCTMNIST; see layouts), elpv or synthetic
    synthetic  drawn B-scans: layers, drusen, neovascular membranes, speckle
    folds      folds by patient, their digest, the leak check
    views      augmentation of teacher and student, views for test-time augmentation
    metrics    macro one-vs-rest sensitivity and specificity, AUC, calibration error
    select     best epoch, early stop and stochastic weight averaging; rates: learning rates by epoch
    measure    size, multiply-adds, latency, throughput; torch.export and ONNX with their parity
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Options": "options",
    "run": "recipe",
    "balanced_weights": "losses",
    "focal_loss": "losses",
    "distiller": "losses",
    "OctSet": "oct_data",
    "load": "oct_data",
    "b_scans": "synthetic",
    "patient_folds": "folds",
    "check_folds": "folds",
    "fold_metrics": "metrics",
    "summary": "metrics",
    "Selection": "select",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names come from their modules when they are asked for."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
