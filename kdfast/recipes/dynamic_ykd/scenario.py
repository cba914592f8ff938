"""Which classes are learned when: "15-1" is 15 classes at first, then one more in every step."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Labels (from 1; 0 is background) of the classes learned in this step and in all steps before."""

    new: tuple[int, ...]
    old: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        return self.old + self.new


def steps(scenario: str, num_classes: int) -> list[Step]:
    """The steps of "A-B": classes 1 ... A, then B more a step until all are learned.

    Raises:
        ValueError: not of that form, or A + n B is not the number of classes.
    """
    found = re.fullmatch(r"(\d+)-(\d+)", scenario)
    if not found:
        raise ValueError(f"scenario must be like '15-1', classes at first and in each step, got {scenario!r}")
    base, more = map(int, found.groups())
    rest = num_classes - base
    if base < 1 or more < 1 or rest < more or rest % more:
        raise ValueError(
            f"scenario {scenario!r} does not fit {num_classes} classes: {base} and then {more} a step must "
            "add up to them, with at least one step"
        )
    ends = range(base, num_classes + 1, more)
    begins = [0, *ends[:-1]]
    return [
        Step(tuple(range(begin + 1, end + 1)), tuple(range(1, begin + 1)))
        for begin, end in zip(begins, ends, strict=True)
    ]
