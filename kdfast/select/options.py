"""The options of KANSelector, checked when `fit` begins, as scikit-learn wants it."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch

CHOICES = {
    "method": ("l1", "l2", "si", "ko"),
    "criterion": ("coefficient", "activation"),
    "task": ("auto", "classification", "regression"),
    "scaling": ("minmax", "standard", "quantile"),
    "importance_on": ("holdout", "train"),
}
COUNTS = ("grid_size", "max_epochs", "batch_size")


def check_options(selector: Any) -> None:
    """ValueError or TypeError for the first option that cannot be, RuntimeError for a missing device."""
    for name, choices in CHOICES.items():
        value = getattr(selector, name)
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    for name in COUNTS:
        _check_count(name, getattr(selector, name))
    if selector.hidden != "2d+1":
        _check_count("hidden", selector.hidden, or_else=" or '2d+1'")
    _check_between("lr", selector.lr, 0, math.inf)
    _check_between("eval_fraction", selector.eval_fraction, 0, 1)
    if selector.regularization != 0:
        _check_between("regularization", selector.regularization, 0, math.inf)
    _check_device(selector.device)


def count_to_keep(wanted: Any, features: int) -> int | None:
    """How many of `features` to keep; None for "auto". ValueError, TypeError."""
    if isinstance(wanted, str):
        if wanted == "auto":
            return None
        raise ValueError(f"n_features_to_select must be a count, a share or 'auto', got {wanted!r}")
    if isinstance(wanted, bool) or not isinstance(wanted, Real):
        raise TypeError(f"n_features_to_select must be a count, a share or 'auto', got {wanted!r}")
    if isinstance(wanted, Integral):
        if not 1 <= wanted <= features:
            raise ValueError(
                f"n_features_to_select must be from 1 to the {features} features of X, got {wanted}"
            )
        return int(wanted)
    if not 0 < wanted <= 1:
        raise ValueError(f"n_features_to_select must be above 0 and at most 1 as a share, got {wanted}")
    return max(1, math.ceil(round(wanted * features, 9)))  # 0.1 * 30 is 3 and not a little more


def _check_count(name: str, value: Any, or_else: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int{or_else}, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_between(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not low < value < high:
        bounds = f"above {low}" + ("" if high == math.inf else f" and below {high}")
        raise ValueError(f"{name} must be {bounds}, got {value}")


def _check_device(device: Any) -> None:
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device must be one that torch knows, such as 'cpu' or 'cuda', got {device!r}"
        ) from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device {device!r} was given, but torch sees no GPU; use device='cpu'")
