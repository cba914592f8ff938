"""Means over samples of named 0-d tensors, added up where they are: no read-back in a step."""

from __future__ import annotations

from torch import Tensor


class Means:
    """`add` the means of a batch, `take` those of all batches since the last time."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: dict[str, Tensor], count: int) -> None:
        """Means over `count` samples each."""
        self._sums = {name: self._sums.get(name, 0) + count * value for name, value in values.items()}
        self._count += count

    def take(self) -> dict[str, Tensor]:
        """The means so far; starts anew."""
        means = {name: value / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
