"""Keys of a TeacherCache: (sample, augmentation) as one JSON text, which tells 1, "1" and (1,) apart."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable
from typing import Any


def row_keys(samples: Iterable[Any], augmentation: Any) -> list[str]:
    """One text a sample. `augmentation` is one value for all, or a list (or 1-D array) with one a sample."""
    samples = as_list(samples, "keys")
    views = [augmentation] * len(samples)
    if is_per_sample(augmentation):
        views = as_list(augmentation, "augmentation")
    if len(views) != len(samples):
        raise ValueError(
            f"augmentation is a list of {len(views)} for {len(samples)} keys; give one a sample, or one value"
        )
    return [
        json.dumps([_plain(sample, "keys"), _plain(view, "augmentation")], separators=(",", ":"))
        for sample, view in zip(samples, views, strict=True)
    ]


def is_per_sample(augmentation: Any) -> bool:
    """A list or a 1-D array holds one value a sample; anything else, a tuple too, is one value."""
    return isinstance(augmentation, list) or getattr(augmentation, "ndim", 0) == 1


def as_list(values: Any, argument: str) -> list[Any]:
    """Keys as a list; arrays and tensors by their values."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{argument} must be a sequence with one entry a sample, got {values!r}")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _plain(value: Any, argument: str) -> Any:
    """The value in types that JSON keeps apart; TypeError for others."""
    if isinstance(value, (tuple, list)):
        return [_plain(item, argument) for item in value]
    if isinstance(value, (str, bool)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must hold numbers, strings or tuples of them, got {value!r}") from None
