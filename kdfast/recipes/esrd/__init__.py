"""Progression of chronic kidney disease to ESRD from clinical and claims tables (Li and Padman, JAMIA 2025).

    tables -> checks -> cohort and windows -> models -> explanation, subgroups -> distillation -> report

`kdfast distill esrd` runs it on synthetic people, on your tables, or on a public cohort. Each step is
importable:

    egfr       CKD-EPI 2009 and 2021, KDIGO stages          build      build_cohort: tables to a Cohort
    codes      code sets (codes.yaml)                       cohort     Cohort, Task: windows, outcome, funnel
    schema     the tables' columns and units                models     LR, forests, boosting, networks by name
    evaluation metrics, calibration, nested CV              fairness   subgroups, reclassification
    explain    Shapley values, expected gradients, KAN      distil     teacher, students, latency
    export     torch.export and ONNX                        synthetic  people with planted risks
    public     NAFLD, SUPPORT, flchain, UCI CKD             recovery   what was planted against what was found
    steps      the run's steps, kept once done              report     report.html

Not a medical device.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Options": "options",
    "run": "recipe",
    "ckd_epi_2009": "egfr",
    "ckd_epi_2021": "egfr",
    "kdigo_stage": "egfr",
    "slope": "egfr",
    "load_codes": "codes",
    "build_cohort": "build",
    "Cohort": "cohort",
    "Task": "cohort",
    "WINDOWS": "cohort",
    "make_model": "models",
    "RiskNetwork": "models",
    "Settings": "models",
    "make_student": "models.students",
    "nested_cv": "evaluation",
    "scores": "evaluation",
    "subgroups": "fairness",
    "equalized_odds": "fairness",
    "reclassification": "fairness",
    "misclassified": "fairness",
    "expected_gradients": "explain",
    "tree_shap": "explain",
    "kan_importances": "explain",
    "kan_curves": "explain",
    "simulate": "synthetic",
    "make_tables": "synthetic",
    "load_public": "public",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names come from their modules when they are asked for: the equations alone need neither Polars nor
    Lightning.
    """
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
