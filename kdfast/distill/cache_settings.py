"""The settings of a TeacherCache, as its manifest keeps them."""

from __future__ import annotations

import hashlib
import math
import numbers
from typing import Any

import torch
from torch import nn


def settings(teacher: Any, top_k: Any, temperature: Any, dtype: Any) -> dict[str, Any]:
    """Given settings in the manifest's form; TypeError or ValueError for impossible ones."""
    if not (teacher is None or isinstance(teacher, (str, nn.Module))):
        raise TypeError(f"teacher must be a name, a module or None, got {teacher!r}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
        raise ValueError(f"top_k must be an int of at least 1 or None, got {top_k!r}")
    if temperature is not None and not (isinstance(temperature, numbers.Real) and 0 < temperature < math.inf):
        raise ValueError(f"temperature must be a finite number above 0 or None, got {temperature!r}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"dtype must be a floating-point torch.dtype or None, got {dtype!r}")
    return {
        "teacher": fingerprint(teacher) if isinstance(teacher, nn.Module) else teacher,
        "top_k": top_k,
        "temperature": None if temperature is None else float(temperature),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
    }


def with_defaults(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a new cache."""
    if given["top_k"] is not None:
        return {**given, "temperature": given["temperature"] or 1.0, "dtype": given["dtype"] or "float16"}
    if given["temperature"] is not None:
        raise ValueError("temperature is for caches with top_k; dense outputs are stored as they are given")
    return given


def check_settings(given: dict[str, Any], manifest: dict[str, Any], path: str) -> None:
    """ValueError if a setting was given that the existing cache does not have."""
    for name, value in given.items():
        if value is not None and value != manifest[name]:
            raise ValueError(
                f"TeacherCache {path!r} was written with {name}={manifest[name]!r}, but {name}={value!r} was "
                f"given; use another path for another {name}"
            )


def fingerprint(module: nn.Module) -> str:
    """The class of a module and a SHA-256 of its state: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{type(module).__name__}@sha256:{digest.hexdigest()[:32]}"
