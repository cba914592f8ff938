"""OUT/, the folder of one run.

    config.yaml          the recipe and every option; `--config` reads it back
    metrics.jsonl        one JSON object per stage and epoch
    checkpoint/          STAGE.ckpt (Lightning's format) and NAME.json (results of finished steps)
    student.safetensors  the distilled student
    report.html          written last: a folder that has it is finished

Every file but metrics.jsonl is written to a temporary name, flushed to the disk and renamed, so that a crash
or a full disk leaves the previous file whole. metrics.jsonl is appended to; on resume, lines newer than the
checkpoint go. Only the main process writes; in the others every method that writes does nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from kdfast.recipes.common.errors import UserError, why
from kdfast.recipes.common.ranks import is_main

CONFIG, METRICS, REPORT, CHECKPOINT = "config.yaml", "metrics.jsonl", "report.html", "checkpoint"


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its place once it is complete and on the disk.

    Raises:
        UserError: the disk is full or not writable; `path` is as it was and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_names(path.parent)
    except OSError as error:
        kept = "the previous one is kept" if path.exists() else "nothing was lost"
        raise UserError(f"cannot write {path}: {why(error)}; {kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _flush_names(folder: Path) -> None:
    """A rename is on the disk only when the folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class RunFolder:
    """One run's folder. Build it with `create` (a new run) or `open` (`--resume`)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any]) -> RunFolder:
        """Start a run in `path`, which must not exist or be an empty folder.

        Raises:
            UserError: `path` holds something already, or cannot be made.
        """
        folder = cls(path)
        if not is_main():
            return folder
        if folder.path.exists() and not folder.path.is_dir():
            raise UserError(f"--out {path} is a file; a new or empty folder is needed")
        if (folder.path / CONFIG).exists():
            raise UserError(
                f"--out {path} holds another run; continue it with --resume {path} or name a new folder"
            )
        if folder.path.is_dir() and any(folder.path.iterdir()):
            raise UserError(f"--out {path} is not empty; a new or empty folder is needed")
        folder.write(CONFIG, yaml.safe_dump(config, sort_keys=False))
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """The folder of a run that was started before.

        Raises:
            UserError: `path` holds no run.
        """
        folder = cls(path)
        if not (folder.path / CONFIG).is_file():
            raise UserError(f"--resume {path} holds no run ({CONFIG} is missing)")
        return folder

    @property
    def finished(self) -> bool:
        return (self.path / REPORT).exists()

    def checkpoint(self, stage: str) -> Path:
        """Where the training state of `stage` is kept."""
        return self.path / CHECKPOINT / f"{stage}.ckpt"

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file whole or not at all. Raises UserError where the disk refuses."""
        if is_main():
            with replacing(self.path / name) as file:
                file.write(content.encode() if isinstance(content, str) else content)

    def result(self, name: str, compute: Callable[[], Any]) -> Any:
        """The JSON value of a finished step: read back if it was computed before, else computed and kept.

        `compute` must not talk to the other processes: one of them may already have the value.
        """
        path = self.path / CHECKPOINT / f"{name}.json"
        if path.exists():
            try:
                return json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read; delete it to compute it again") from error
        value = compute()
        self.write(f"{CHECKPOINT}/{name}.json", json.dumps(value, indent=1) + "\n")
        return value

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl. Raises UserError where the disk refuses."""
        if not is_main():
            return
        path = self.path / METRICS
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {path}: {why(error)}; the last checkpoint is kept") from error

    def records(self, stage: str | None = None) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl, of one stage or of all; a line torn by a crash is left out."""
        path = self.path / METRICS
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        records = [record for line in lines if (record := _parsed(line)) is not None]
        return [record for record in records if stage in (None, record["stage"])]

    def forget(self, stage: str, done: int) -> None:
        """Drop the lines of `stage` past its first `done` epochs, logged after the last checkpoint."""
        if not is_main() or not (self.path / METRICS).exists():
            return
        kept = [r for r in self.records() if r["stage"] != stage or r["epoch"] <= done]
        self.write(METRICS, "".join(json.dumps(record) + "\n" for record in kept))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None
