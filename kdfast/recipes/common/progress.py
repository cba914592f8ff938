"""What a training stage shows while it runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import sys
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kdfast.recipes.common.ranks import is_main, say


def reporter(kind: Literal["auto", "bar", "plain", "none"], stage: str, start: int) -> Callback:
    """The callback that shows a stage, which begins at epoch `start`."""
    if kind == "none" or not is_main():
        return Callback()
    bar = kind == "bar" or (kind == "auto" and sys.stdout.isatty())
    return StageBar(stage, start) if bar else StageLines(stage)


def summary(trainer: Trainer) -> str:
    """The newest loss and validation score, as far as the module logs them."""
    metrics = trainer.callback_metrics
    shown = [("loss", "loss", "{:.3f}"), ("val_accuracy", "accuracy", "{:.1%}")]
    shown += [("val_AP", "AP", "{:.1%}"), ("val_mIoU", "mIoU", "{:.1%}")]
    return "  ".join(
        f"{label} {text.format(float(metrics[key]))}" for key, label, text in shown if key in metrics
    )


class StageLines(Callback):
    """One line an epoch."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        say(f"{self._stage:<12} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {summary(trainer)}")


class StageBar(Callback):
    """One bar for the whole stage, in steps."""

    def __init__(self, stage: str, start: int) -> None:
        self._stage, self._start = stage, start
        columns = [
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        ]
        columns += [TimeRemainingColumn(), TextColumn("{task.fields[summary]}")]
        self._bar = Progress(*columns)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = int(trainer.num_training_batches)
        total, done = steps * int(trainer.max_epochs), steps * self._start
        self._task = self._bar.add_task(self._stage, total=total, completed=done, summary="")
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.update(self._task, summary=summary(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.stop()

    def on_exception(self, *_: Any) -> None:
        self._bar.stop()
