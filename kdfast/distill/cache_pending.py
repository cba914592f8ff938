"""Rows of a TeacherCache that wait in memory for their shard."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kdfast.distill.cache_files import write_shard


class Pending:
    """Batches of encoded rows. Apart from the cache, so that a finalizer can write them once that is gone."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.process = os.getpid()
        self.places: dict[str, tuple[int, int]] = {}  # key -> (batch, row)
        self.batches: list[dict[str, torch.Tensor]] = []  # tensors [rows, ...]
        self.raw: list[int] = []  # bytes of each batch before it was encoded
        self.bytes = 0

    def add(self, keys: list[str], batch: dict[str, torch.Tensor], raw_bytes: int) -> None:
        """Take rows with new keys; the tensors are not copied."""
        self._leave_parent()
        self.places.update((key, (len(self.batches), row)) for row, key in enumerate(keys))
        self.batches.append(batch)
        self.raw.append(raw_bytes)
        self.bytes += sum(tensor.nbytes for tensor in batch.values())

    def flush(self) -> None:
        """Write one shard for every layout of rows. If the disk refuses one, everything waits on."""
        self._leave_parent()
        keys: list[list[str]] = [[] for _ in self.batches]
        for key, (batch, _) in self.places.items():
            keys[batch].append(key)
        layouts: dict[str, list[int]] = {}
        for number, batch in enumerate(self.batches):
            layout = str([(name, tensor.shape[1:], tensor.dtype) for name, tensor in sorted(batch.items())])
            layouts.setdefault(layout, []).append(number)
        for numbers in layouts.values():
            first = self.batches[numbers[0]]
            rows = {name: torch.cat([self.batches[number][name] for number in numbers]) for name in first}
            row_keys = [key for number in numbers for key in keys[number]]
            write_shard(self.folder, rows, row_keys, sum(self.raw[number] for number in numbers))
        self._clear()

    def _leave_parent(self) -> None:
        """In a forked process, the rows that wait are the parent's to write."""
        if self.process != os.getpid():
            self.process = os.getpid()
            self._clear()

    def _clear(self) -> None:
        self.places.clear()
        self.batches.clear()
        self.raw.clear()
        self.bytes = 0
