"""TeacherCache: a teacher's outputs on disk, by sample and augmentation.

A top-k row of 64 of 32000 classes takes 260 bytes (float16, uint16, one float32: see top_k.py) and its key,
where float32 logits take 128000.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdfast.distill import cache_files as files
from kdfast.distill import top_k as sparse
from kdfast.distill.cache_keys import as_list, is_per_sample, row_keys
from kdfast.distill.cache_pending import Pending
from kdfast.distill.cache_settings import check_settings, settings, with_defaults
from kdfast.distill.paths import describe
from kdfast.ops._check import whole_number


class TeacherCache:
    """Store a teacher's outputs once, and replay them.

        cache = TeacherCache("cache", teacher=teacher, top_k=64, temperature=4.0)
        soft = cache.get_or_put(ids, lambda todo: teacher(x[todo]), augmentation="center-224")
        loss = KF.topk_kl_div(student(x), *soft, temperature=4.0)

    path: a folder, created if absent. A cache that exists keeps its settings; `TeacherCache(path)` takes them
        over, and a ValueError tells of one given here that differs.
    teacher: what tells this teacher from another: a name, or the module (its class and a SHA-256 of its
        weights). None: not recorded in a new cache, not checked in an existing one.
    top_k: keep the k most probable classes of logits [B, ..., C]; None keeps outputs dense.
    temperature: of top-k log-probabilities; 1.0 where not given. Dense outputs have none.
    dtype: floating-point type on disk; by default float16 for top-k, and what they have for dense outputs.
    shard_bytes: rows wait in memory until they fill a shard of this size; `flush()` commits what waits.

    Keys. A row belongs to a sample key and an augmentation key, and is never found under another of either.
    Keys are ints, strings, or tuples of them; a 1-D integer tensor of sample keys will do. The augmentation
    must always be named: one value for the batch, or a list with one a sample (for random views the seed, or
    ("flip", seed)). The first row put under a key stays.

    Safe. Rows are committed in whole safetensors files that never change (see cache_files.py). A killed
    writer loses what waited in memory and harms nothing else. Any number of processes may read and write one
    cache at a time; a key counts as missing only after a look for shards that others committed. An object
    belongs to one thread; pickled to another process, it opens the folder anew.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        teacher: str | nn.Module | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        dtype: torch.dtype | None = None,
        shard_bytes: int = 64 * 2**20,
    ):
        given = settings(teacher, top_k, temperature, dtype)
        self.path = Path(path)
        self.shard_bytes = whole_number("shard_bytes", shard_bytes, 1)
        manifest = files.read_manifest(self.path)
        if manifest is None:
            files.create_manifest(self.path, with_defaults(given))
            manifest = files.read_manifest(self.path)  # another process may have been first
        check_settings(given, manifest, str(self.path))
        self.teacher: str | None = manifest["teacher"]
        self.top_k: int | None = manifest["top_k"]
        self.temperature: float | None = manifest["temperature"]
        self.dtype: torch.dtype | None = getattr(torch, manifest["dtype"]) if manifest["dtype"] else None
        files.remove_stale(self.path)
        self._committed: dict[str, tuple[str, int]] = {}  # key -> (shard, row)
        self._shards: set[str] = set()
        self._pending = Pending(self.path)
        weakref.finalize(self, self._pending.flush)  # a normal exit loses nothing
        self.refresh()

    def put(self, keys: Iterable[Any], outputs: Any, *, augmentation: Any) -> int:
        """Add a batch of outputs; returns how many rows were new.

        outputs: a tensor [B, ...], or {name: tensor [B, ...]}; with top_k, logits [B, ..., C] or a TopK made
        elsewhere at the cache's temperature. Copied to the CPU, detached.
        """
        names = row_keys(keys, augmentation)
        tensors, raw_bytes = self._encode(outputs)
        for name, tensor in tensors.items():
            if tensor.dim() == 0 or tensor.shape[0] != len(names):
                raise ValueError(
                    f"{name} has shape {list(tensor.shape)}, but there are {len(names)} keys; the first dim "
                    "of outputs must be the batch"
                )
        fresh = {key: row for row, key in reversed(list(enumerate(names))) if not self._knows(key)}
        if fresh:
            rows = torch.tensor(list(fresh.values()))
            batch = {name: tensor[rows] for name, tensor in tensors.items()}
            self._pending.add(list(fresh), batch, raw_bytes * len(fresh) // len(names))
        if self._pending.bytes >= self.shard_bytes:
            self.flush()
        return len(fresh)

    def get(self, keys: Iterable[Any], *, augmentation: Any, device: torch.device | str | None = None) -> Any:
        """The rows of the keys, stacked in their order: a tensor, {name: tensor}, or a TopK (float32, int64).

        KeyError where rows are missing, saying how many; ValueError where their shapes differ.
        """
        names = row_keys(keys, augmentation)
        if not names:
            raise ValueError("keys is empty; it needs at least one")
        missing = self._missing(names)
        if missing:
            some = ", ".join(names[i] for i in missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise KeyError(
                f"TeacherCache {str(self.path)!r} lacks {len(missing)} of {len(names)} rows, as "
                f"[sample, augmentation]: {some}"
            )
        tensors = {name: tensor.to(device) for name, tensor in self._read(names).items()}
        if self.top_k is not None:
            return sparse.TopK(**tensors)
        if "output" in tensors:
            return tensors["output"]
        return {name.removeprefix("output."): tensor for name, tensor in tensors.items()}

    def get_or_put(
        self,
        keys: Iterable[Any],
        compute: Callable[[list[int]], Any],
        *,
        augmentation: Any,
        device: torch.device | str | None = None,
    ) -> Any:
        """`get`, after `compute(positions)` has made the outputs of those samples of the batch that are
        missing.

        Rows computed now come back as they are stored, so the first epoch sees the numbers that later ones
        see.
        """
        keys = as_list(keys, "keys")
        todo = self.missing(keys, augmentation=augmentation)
        if todo:
            views = augmentation
            if is_per_sample(augmentation):
                views = [as_list(augmentation, "augmentation")[i] for i in todo]
            self.put([keys[i] for i in todo], compute(todo), augmentation=views)
        return self.get(keys, augmentation=augmentation, device=device)

    def missing(self, keys: Iterable[Any], *, augmentation: Any) -> list[int]:
        """Positions of the keys that have no row under this augmentation."""
        return self._missing(row_keys(keys, augmentation))

    def flush(self) -> None:
        """Commit the rows that wait in memory. OSError where the disk refuses them; they wait on."""
        self._pending.flush()
        self.refresh()

    def refresh(self) -> None:
        """Learn of shards that other processes committed."""
        for shard in files.shard_names(self.path):
            if shard not in self._shards:
                for row, key in enumerate(files.shard_keys(str(self.path / shard))):
                    self._committed.setdefault(key, (shard, row))
                self._shards.add(shard)

    def stats(self) -> dict[str, float]:
        """Of committed rows: rows, bytes on disk, raw_bytes of the outputs as put, ratio raw / disk."""
        paths = [self.path / shard for shard in self._shards]
        disk = sum(path.stat().st_size for path in paths)
        raw = sum(files.shard_raw_bytes(str(path)) for path in paths)
        return {
            "rows": len(self._committed),
            "bytes": disk,
            "raw_bytes": raw,
            "ratio": raw / disk if disk else 0.0,
        }

    def close(self) -> None:
        """Commit what waits. (The object stays usable.)"""
        self.flush()

    def __len__(self) -> int:
        return len(self._committed.keys() | self._pending.places.keys())

    def __contains__(self, key: tuple[Any, Any]) -> bool:
        """`(sample, augmentation) in cache`."""
        sample, augmentation = key
        return not self._missing(row_keys([sample], [augmentation]))

    def __enter__(self) -> TeacherCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, tuple]:
        return partial(TeacherCache, self.path, shard_bytes=self.shard_bytes), ()

    def __repr__(self) -> str:
        kind = "dense" if self.top_k is None else f"top_k={self.top_k}, temperature={self.temperature}"
        return f"TeacherCache({str(self.path)!r}, teacher={self.teacher!r}, {kind}, rows={len(self)})"

    def _knows(self, key: str) -> bool:
        return key in self._committed or key in self._pending.places

    def _missing(self, names: list[str]) -> list[int]:
        if not all(map(self._knows, names)):
            self.refresh()
        return [i for i, key in enumerate(names) if not self._knows(key)]

    def _read(self, names: list[str]) -> dict[str, torch.Tensor]:
        """{name: [B, ...]} of known keys, decoded."""
        sources: dict[str | int, list[tuple[int, int]]] = {}  # shard or waiting batch -> (place, row)
        for place, key in enumerate(names):
            source, row = self._committed.get(key) or self._pending.places[key]
            sources.setdefault(source, []).append((place, row))
        chunks = []
        for source, pairs in sources.items():
            rows = torch.tensor([row for _, row in pairs])
            if isinstance(source, str):
                chunk = files.shard_rows(str(self.path / source), rows)
            else:
                chunk = {name: tensor[rows] for name, tensor in self._pending.batches[source].items()}
            chunks.append(chunk if self.top_k is None else sparse.decode(chunk)._asdict())
        shapes = {str({name: list(t.shape[1:]) for name, t in sorted(chunk.items())}) for chunk in chunks}
        if len(shapes) > 1:
            raise ValueError(f"the rows asked for differ in shape: {' and '.join(sorted(shapes))}")
        order = torch.tensor([place for pairs in sources.values() for place, _ in pairs]).argsort()
        return {name: torch.cat([chunk[name] for chunk in chunks])[order] for name in chunks[0]}

    def _encode(self, outputs: Any) -> tuple[dict[str, torch.Tensor], int]:
        """Tensors as they are stored, on the CPU, and the bytes of the outputs as given."""
        if self.top_k is not None:
            return sparse.encode(outputs, self.top_k, self.temperature, self.dtype)
        named = {"output": outputs}
        if isinstance(outputs, Mapping):
            named = {f"output.{name}": tensor for name, tensor in outputs.items()}
        if not named or not all(isinstance(tensor, torch.Tensor) for tensor in named.values()):
            raise TypeError(f"outputs must be a tensor or a dict of tensors, got {describe(outputs)}")
        stored = {}
        for name, tensor in named.items():
            dtype = self.dtype if self.dtype and tensor.is_floating_point() else tensor.dtype
            stored[name] = tensor.detach().to("cpu", dtype)
        return stored, sum(tensor.nbytes for tensor in named.values())
