"""Inheritance: the student's neck and head start from the teacher's weights (MasKD, and ACAM-KD after it)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn


class Inherited(NamedTuple):
    """Names of the tensors that were copied, and of those that do not fit."""

    copied: list[str]
    left: list[str]


@torch.no_grad()
def inherit(student: nn.Module, teacher: nn.Module, prefixes: Iterable[str]) -> Inherited:
    """Copy the teacher's parameters and buffers under `prefixes` to the student where name and shape agree.

    Raises:
        ValueError: a prefix names nothing in the student or in the teacher, or nothing fits.
    """
    prefixes = tuple(prefixes)
    ours, theirs = student.state_dict(), teacher.state_dict()
    for prefix in prefixes:
        for role, names in (("student", ours), ("teacher", theirs)):
            if not any(_under(name, prefix) for name in names):
                raise ValueError(f"prefix {prefix!r}: the {role} has no tensor under it")
    wanted = [name for name in ours if any(_under(name, prefix) for prefix in prefixes)]
    copied = [name for name in wanted if name in theirs and theirs[name].shape == ours[name].shape]
    if not copied:
        raise ValueError(f"nothing under {', '.join(prefixes)} has the same shape in student and teacher")
    for name in copied:
        ours[name].copy_(theirs[name])
    return Inherited(copied, [name for name in wanted if name not in copied])


def _under(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}.")
