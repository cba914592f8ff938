"""Dual-head optimization: semi-supervised distillation from vision-language models (arXiv 2505.07675).

    L = lam CE(a, y) + (1 - lam) (KL of labelled rows + KL of unlabelled rows, t against b);
    p = alpha softmax(a) + (1 - alpha) softmax(b / beta)

a, b: logits of the student's supervised and distillation head, t: of a zero-shot or few-shot teacher. A few
labelled images and many without labels train one backbone; alpha and beta are 0.5 with a share of the labels,
and searched on validation images with --shots.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Options": "options",
    "run": "recipe",
    "DualHead": "heads",
    "SingleHead": "heads",
    "HeadedStudent": "heads",
    "UNLABELED": "losses",
    "dho_loss": "losses",
    "SupervisedLoss": "losses",
    "HalfKL": "losses",
    "ALPHAS": "inference",
    "BETAS": "inference",
    "dho_predict": "inference",
    "search_alpha_beta": "inference",
    "prompts": "zero_shot",
    "class_vectors": "zero_shot",
    "class_embeddings": "zero_shot",
    "zero_shot_logits": "zero_shot",
    "ZeroShot": "zero_shot",
    "ClipTextHead": "zero_shot",
    "TipAdapter": "tip_adapter",
    "tip_adapter_logits": "tip_adapter",
    "fit_tip_adapter": "tip_adapter",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names come from their modules when they are asked for: the equations need no Lightning."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
