"""Synthetic people only: what was planted (synthetic/truth.py) against what the study found.

Every synthetic person's true risk is known, so models can be judged without the noise of few outcomes: the
expected AUROC weighs each person as `risk` of a case and `1 - risk` of a control.
"""

from __future__ import annotations

import numpy as np

from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.evaluation import auroc
from kdfast.recipes.esrd.explain import Explanation
from kdfast.recipes.esrd.grid import MONTH_DAYS
from kdfast.recipes.esrd.study import Study
from kdfast.recipes.esrd.synthetic import NULL_FEATURES

PLANTED = {  # cause in truth.py -> features that see it
    "low_egfr": ("egfr_2021", "egfr_2009", "ckd_stage_4", "ckd_stage_5"),
    "log_uacr": ("uacr",),
    "diabetes": ("diabetes",),
    "heart_failure": ("heart_failure",),
    "admissions": ("n_inpatient", "cost_inpatient"),
}


def true_risk(study: Study, task: Task) -> np.ndarray:
    """[n] probability of the outcome within the horizon after the landmark, for the people of `task`."""
    rows = task.people["patient_id"].to_numpy()  # synthetic ids are row numbers of the truth
    landmark = study.cohort.index[task.cell] + task.months * MONTH_DAYS
    return study.truth.risk(rows, landmark, task.horizon * MONTH_DAYS)


def expected_auroc(risk: np.ndarray, p: np.ndarray) -> float:
    """AUROC of p [n] if outcomes were drawn from `risk` [n] again and again."""
    label = np.repeat([1, 0], len(risk))
    return auroc(label, np.concatenate([p, p]), np.concatenate([risk, 1 - risk]))


def true_to_predicted(risk: np.ndarray, p: np.ndarray, black: np.ndarray) -> dict[str, float]:
    """Sum of true over sum of predicted risk by race: above 1 where a model understates the risk."""
    groups = {"black": black, "white": ~black}
    return {name: float(risk[mark].sum() / p[mark].sum()) for name, mark in groups.items()}


def importance_of_causes(found: Explanation) -> dict[str, float]:
    """Mean absolute Shapley value of each planted cause, and of each feature that means nothing."""
    sums: dict[str, float] = {}
    for name, size in found.importance().items():
        base = name.split(" (")[0]
        sums[base] = sums.get(base, 0.0) + size
    causes = {cause: sum(sums.get(f, 0.0) for f in seen) for cause, seen in PLANTED.items()}
    return causes | {name: sums.get(name, 0.0) for name in NULL_FEATURES}
