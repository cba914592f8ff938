"""Checks of arguments, shared by every op: one sentence that names the argument, what was given and what is
needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
REDUCTIONS = {"none": 0, "mean": 1, "sum": 2, "batchmean": 3}


def tensor(name: str, x: object) -> None:
    """`x` must be a tensor: TypeError."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")


def floating(name: str, x: object) -> None:
    """`x` must be a float64, float32, bfloat16 or float16 tensor: TypeError."""
    tensor(name, x)
    if x.dtype not in FLOATS:
        raise TypeError(f"{name} must be float64, float32, bfloat16 or float16, got {x.dtype}")


def same_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Both on one device: RuntimeError."""
    if x.device != other.device:
        raise RuntimeError(
            f"{name} is on {x.device} and {other_name} on {other.device}: both must be on one device"
        )


def same_shape(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """One shape: ValueError."""
    if x.shape != other.shape:
        raise ValueError(
            f"{name} and {other_name} must have the same shape, got {tuple(x.shape)} and {tuple(other.shape)}"
        )


def positive(name: str, x: object) -> float:
    """A finite number above 0, as a float: TypeError, ValueError."""
    value = number(name, x)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number above 0, got {x}")
    return value


def number(name: str, x: object) -> float:
    """A Python number, as a float: TypeError."""
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(x).__name__}")
    return float(x)


def finite(name: str, x: object) -> float:
    """A finite number, as a float: TypeError, ValueError."""
    value = number(name, x)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {x}")
    return value


def beta(x: object) -> float:
    """The teacher's share of a Jensen-Shannon divergence, in [0, 1]: TypeError, ValueError."""
    value = number("beta", x)
    if not 0 <= value <= 1:
        raise ValueError(f"beta must be in [0, 1], got {value}")
    return value


def lam(x: object) -> float:
    """The teacher's share of a skew divergence's mixture, in (0, 1): TypeError, ValueError."""
    value = number("lam", x)
    if not 0 < value < 1:
        raise ValueError(f"lam must be in (0, 1), got {value}")
    return value


def reduction(name: str) -> int:
    """The code of a reduction: ValueError."""
    code = REDUCTIONS.get(name) if isinstance(name, str) else None
    if code is None:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {name!r}")
    return code


def dims(dim: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Class dimensions as sorted, non-negative, distinct numbers: TypeError, ValueError."""
    given = (dim,) if isinstance(dim, int) else tuple(dim) if isinstance(dim, (tuple, list)) else None
    # Lists and not generators in these two checks: torch.compile traces them as constants.
    if given is None or False in [isinstance(d, int) and not isinstance(d, bool) for d in given]:
        raise TypeError(f"dim must be an int or a tuple of ints, got {dim!r}")
    if not given:
        raise ValueError("dim must name at least one dimension, got ()")
    for d in given:
        if not -ndim <= d < ndim:
            raise ValueError(
                f"dim must be in [{-ndim}, {ndim - 1}] for a tensor of {ndim} dimensions, got {d}"
            )
    wrapped = tuple(sorted(d % ndim for d in given))
    if len(set(wrapped)) != len(wrapped):
        raise ValueError(f"dim names a dimension twice: {dim!r}")
    return wrapped


def row_mask(mask: object, row_shape: Sequence[int], like: Tensor) -> None:
    """A bool or float tensor shaped like one value per row: TypeError, ValueError, RuntimeError."""
    tensor("mask", mask)
    if mask.dtype != torch.bool and mask.dtype not in FLOATS:
        raise TypeError(f"mask must be bool or float, got {mask.dtype}")
    if tuple(mask.shape) != tuple(row_shape):
        raise ValueError(
            f"mask must have one value per row, shape {tuple(row_shape)}, got {tuple(mask.shape)}"
        )
    same_device("mask", mask, "student", like)


def class_index(name: str, x: object, shape: Sequence[int], other_name: str, other: Tensor) -> None:
    """An integer tensor of class numbers with a given shape: TypeError, ValueError, RuntimeError."""
    tensor(name, x)
    if x.dtype not in INTEGERS:
        raise TypeError(f"{name} must hold class numbers (int64), got {x.dtype}")
    if tuple(x.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have shape {tuple(shape)}, to fit {other_name} of shape {tuple(other.shape)}, "
            f"got {tuple(x.shape)}"
        )
    same_device(name, x, other_name, other)


def class_weight(weight: object, classes: int, other_name: str, other: Tensor) -> None:
    """A float tensor with one weight per class: TypeError, ValueError, RuntimeError."""
    floating("weight", weight)
    if tuple(weight.shape) != (classes,):
        raise ValueError(
            f"weight must have one number per class, shape ({classes},), got {tuple(weight.shape)}"
        )
    same_device("weight", weight, other_name, other)


def whole_number(name: str, x: object, least: int) -> int:
    """A Python int of at least `least`: TypeError, ValueError."""
    if isinstance(x, bool) or not isinstance(x, int):
        raise TypeError(f"{name} must be an int, got {type(x).__name__}")
    if x < least:
        raise ValueError(f"{name} must be at least {least}, got {x}")
    return x


def flag(name: str, x: object) -> bool:
    """True or False: TypeError."""
    if not isinstance(x, bool):
        raise TypeError(f"{name} must be True or False, got {type(x).__name__}")
    return x


def logits(name: str, x: object) -> None:
    """Logits whose last dimension holds at least one class: TypeError, ValueError."""
    floating(name, x)
    if x.dim() == 0:
        raise ValueError(f"{name} must have a class dimension, got a 0-d tensor")
    if x.size(-1) == 0:
        raise ValueError(f"{name} must have at least one class, got shape {tuple(x.shape)}")


def logits_pair(
    student: object, teacher: object, dim: int | Sequence[int], teacher_name: str = "teacher"
) -> tuple[int, ...]:
    """Student and teacher logits that fit each other; returns the class dimensions."""
    floating("student", student)
    floating(teacher_name, teacher)
    if student.dim() == 0:
        raise ValueError("student must have a class dimension, got a 0-d tensor")
    class_dims = dims(dim, student.dim())
    if student.shape != teacher.shape:
        raise ValueError(_shape_sentence(student, teacher, class_dims, teacher_name))
    same_device("student", student, teacher_name, teacher)
    if 0 in [student.size(d) for d in class_dims]:
        raise ValueError(
            f"student must have at least one class, got shape {tuple(student.shape)} with dim={dim}"
        )
    return class_dims


def _shape_sentence(student: Tensor, teacher: Tensor, class_dims: tuple[int, ...], teacher_name: str) -> str:
    given = f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
    if student.dim() == teacher.dim():
        differing = [d for d in range(student.dim()) if student.size(d) != teacher.size(d)]
        if len(differing) == 1 and differing[0] in class_dims:
            d = differing[0]
            return (
                f"student and {teacher_name} have {student.size(d)} and {teacher.size(d)} classes along "
                f"dim {d}, {given}: pad the smaller with -inf logits, or cut the larger, so that class i "
                "means the same on both sides"
            )
    return f"student and {teacher_name} must have the same shape, {given}"
