"""The files of a TeacherCache: a manifest and immutable shards, each written aside and renamed into place.

    manifest.json                   teacher, top_k, temperature, dtype
    <time>-<random>.safetensors     rows of outputs, tensors [N, ...]; `keys`: their N keys, JSON lines
    .<random>.tmp                   a file being written; a killed writer leaves it, readers do not look at it

A shard carries its own keys, so there is no index that could disagree with the rows. A rename is atomic: a
reader sees a whole shard or none. Writers, on however many machines, never touch each other's files.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

FORMAT, VERSION = "kdfast-teacher-cache", 1
MANIFEST = "manifest.json"
_STALE_SECONDS = 86400.0


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest, or None where the folder holds no cache; ValueError for anything that is not a cache."""
    manifest_path = folder / MANIFEST
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        found = (manifest["format"], manifest["version"])
    except FileNotFoundError:
        if folder.is_dir() and any(not name.startswith(".") for name in os.listdir(folder)):
            raise ValueError(
                f"path {str(folder)!r} has files but no {MANIFEST}: not a TeacherCache"
            ) from None
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(manifest_path)!r} is not the manifest of a TeacherCache") from error
    if found != (FORMAT, VERSION):
        raise ValueError(
            f"{str(manifest_path)!r} has format {found[0]!r} version {found[1]!r}; this kdfast reads "
            f"{FORMAT!r} version {VERSION}"
        )
    return manifest


def create_manifest(folder: Path, settings: dict[str, Any]) -> None:
    """Write the manifest unless another process did first."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, "version": VERSION, **settings}, indent=2) + "\n"

    def publish(temporary: Path) -> None:
        try:
            os.link(temporary, folder / MANIFEST)  # fails where one exists: the first writer wins
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(temporary, folder / MANIFEST)

    _write_aside(folder, lambda temporary: temporary.write_text(text, encoding="utf-8"), publish)


def write_shard(folder: Path, tensors: dict[str, torch.Tensor], keys: list[str], raw_bytes: int) -> None:
    """Write and publish one shard. OSError where the disk refuses it; shards written before stay whole.

    raw_bytes: what the rows took before they were encoded, for `stats()`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    blob = torch.frombuffer(bytearray("\n".join(keys), "utf-8"), dtype=torch.uint8)
    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}.safetensors"  # sorts by time
    metadata = {"format": FORMAT, "version": str(VERSION), "raw_bytes": str(raw_bytes)}
    try:
        _write_aside(
            folder,
            write=lambda temporary: save_file({**tensors, "keys": blob}, temporary, metadata),
            publish=lambda temporary: os.replace(temporary, folder / name),
        )
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"TeacherCache {str(folder)!r}: {len(keys)} rows could not be written ({error}); they wait in "
            "memory, and what was committed before is whole"
        ) from error


def _write_aside(folder: Path, write: Callable[[Path], Any], publish: Callable[[Path], None]) -> None:
    """Write a temporary file, force it to disk, publish it, force the folder's entry to disk."""
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        write(temporary)
        _sync(temporary)
        publish(temporary)
        _sync(folder)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shard_names(folder: Path) -> list[str]:
    """Published shards, oldest first."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".safetensors"))


def remove_stale(folder: Path) -> None:
    """Delete temporary files that killed writers left more than a day ago."""
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            with suppress(OSError):
                if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                    os.unlink(entry.path)


@lru_cache(maxsize=64)
def _open_shard(path: str) -> Any:
    """A shard as a memory map: only rows that are used are read. Kept open, since shards never change."""
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise RuntimeError(
            f"{path!r} is not a readable shard of a TeacherCache ({error}); delete it and put its rows again"
        ) from error


def shard_keys(path: str) -> list[str]:
    """The keys of a shard's rows, in row order."""
    return bytes(_open_shard(path).get_tensor("keys").numpy()).decode("utf-8").split("\n")


def shard_rows(path: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """{name: [len(rows), ...]}, copied out of a shard."""
    shard = _open_shard(path)
    return {name: shard.get_tensor(name)[rows] for name in sorted(shard.keys()) if name != "keys"}


def shard_raw_bytes(path: str) -> int:
    """What the shard's rows took before they were encoded."""
    return int(_open_shard(path).metadata()["raw_bytes"])
