"""Checks of arguments that the losses on features share, beside those of _check.py."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check


def pair(student: object, teacher: object, *, names: tuple[str, str] = ("student", "teacher")) -> None:
    """Two float tensors of one shape on one device: TypeError, ValueError, RuntimeError."""
    for name, x in zip(names, (student, teacher), strict=True):
        _check.floating(name, x)
    _check.same_shape(names[0], student, names[1], teacher)
    _check.same_device(names[0], student, names[1], teacher)


def ndim(name: str, x: Tensor, wanted: int, meaning: str) -> None:
    """`x` has `wanted` dimensions: ValueError."""
    if x.dim() != wanted:
        raise ValueError(f"{name} must be {meaning}, got shape {tuple(x.shape)}")


def shape(name: str, x: Tensor, wanted: Sequence[int], meaning: str) -> None:
    """`x` has exactly this shape: ValueError."""
    if tuple(x.shape) != tuple(wanted):
        raise ValueError(f"{name} must be {meaning}, here {tuple(wanted)}, got shape {tuple(x.shape)}")


def position_mask(
    name: str,
    x: object,
    wanted: Sequence[int],
    like_name: str,
    like: Tensor,
    meaning: str = "[batch, positions]",
) -> None:
    """A bool tensor, True for a valid position, on `like`'s device: TypeError, ValueError, RuntimeError."""
    _check.tensor(name, x)
    if x.dtype != torch.bool:
        raise TypeError(f"{name} must be bool, True where a position is valid, got {x.dtype}")
    shape(name, x, wanted, meaning)
    _check.same_device(name, x, like_name, like)


def integers(name: str, x: object) -> None:
    """`x` is a tensor of integers: TypeError."""
    _check.tensor(name, x)
    if x.dtype not in _check.INTEGERS:
        raise TypeError(f"{name} must hold integers, got {x.dtype}")


def not_negative(name: str, x: object) -> float:
    """A finite number, 0 or above, as a float: TypeError, ValueError."""
    value = _check.number(name, x)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number, 0 or above, got {x}")
    return value


def option(name: str, x: object, choices: Sequence[str]) -> str:
    """One of `choices`: ValueError."""
    if x not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {x!r}")
    return x


def contents_are_readable(x: Tensor) -> bool:
    """Whether a definition may look at a tensor's contents: on the CPU and outside a trace."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_traced(x)


def _is_traced(x: Tensor) -> bool:
    return x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x) or type(x) is not Tensor


def indices(name: str, x: Tensor, count: int, ignore_index: int | None = None) -> None:
    """Every number is in [0, count) or is `ignore_index`: ValueError. Says nothing where contents cannot be
    read.
    """
    if not contents_are_readable(x):
        return
    wrong = (x < 0) | (x >= count)
    if ignore_index is not None:
        wrong &= x != ignore_index
    if wrong.any():
        raise ValueError(f"{name} must be in [0, {count - 1}], got {int(x[wrong][0])}")


def box_contents(name: str, boxes: Tensor, counted: Tensor | None = None) -> None:
    """No NaN and no negative width or height in cxcywh boxes [..., 4]; rows where `counted` is False are let
    be.
    """
    if not contents_are_readable(boxes):
        return
    wrong = boxes.isnan().any(-1) | (boxes[..., 2:] < 0).any(-1)
    if counted is not None:
        wrong &= counted
    if wrong.any():
        raise ValueError(
            f"{name} must be cxcywh with sizes of 0 or above and no NaN, got {boxes[wrong][0].tolist()}"
        )
