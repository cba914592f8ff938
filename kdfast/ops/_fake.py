"""Fake kernels (shapes and dtypes without numbers) of the native ops, for torch.compile and torch.export."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch

from kdfast import backend


def register_fake(name: str, function: Callable) -> None:
    """Makes `function` the fake kernel of torch.ops.kdfast.<name>, where the native library is there.

    A library without the op is older than these files: that is said once, and the op's definition serves.
    """
    if backend.reason_against("native", "cpu") is not None:
        return
    if hasattr(torch.ops.kdfast, name):
        torch.library.register_fake(f"kdfast::{name}", function)
    else:
        _say_that_the_library_is_old()


@functools.cache
def _say_that_the_library_is_old() -> None:
    warnings.warn(
        "kdfast's compiled library is older than its Python files and lacks some of their ops, which run as "
        "plain PyTorch until it is built anew (make build, or pip install)",
        stacklevel=3,
    )
