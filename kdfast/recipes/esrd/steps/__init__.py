"""The steps of a run, each kept in OUT once it is done: comparison, ablation, equations, explanation,
distillation.
"""

from kdfast.recipes.esrd.steps.compare import (
    Evaluated,
    auroc_gain,
    best_of,
    compare_equations,
    compare_lengths,
    compare_models,
    compare_sources,
    main_task,
    require_folds,
    window_task,
)
from kdfast.recipes.esrd.steps.distilled import Distilled, distil
from kdfast.recipes.esrd.steps.explained import Explained, explain_models

__all__ = [
    "Distilled",
    "Evaluated",
    "Explained",
    "auroc_gain",
    "best_of",
    "compare_equations",
    "compare_lengths",
    "compare_models",
    "compare_sources",
    "distil",
    "explain_models",
    "main_task",
    "require_folds",
    "window_task",
]
