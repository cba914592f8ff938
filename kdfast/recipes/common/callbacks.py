"""What happens around a stage's epochs: seeds, metrics.jsonl, the checkpoint."""

from __future__ import annotations

import io
import math
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from kdfast.recipes.common.clock import StepClock
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder, replacing
from kdfast.recipes.common.seeds import seed_all


class SeedEpochs(Callback):
    """Seeds every generator at the start of each epoch by `origin`, epoch and rank; see seeds.py."""

    def __init__(self, *origin: object) -> None:
        self._origin = origin

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_all(*self._origin, trainer.current_epoch, trainer.global_rank)


class Journal(Callback):
    """One line of metrics.jsonl an epoch: what the module logged, the learning rate, the times.

    A logged name with a slash becomes nested: "terms/ce" is record["terms"]["ce"].
    """

    def __init__(self, out: RunFolder, stage: str, clock: StepClock) -> None:
        self._out, self._stage, self._clock = out, stage, clock

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        record: dict[str, Any] = {"stage": self._stage, "epoch": trainer.current_epoch + 1}
        record["step"] = trainer.global_step
        for name, value in sorted(trainer.callback_metrics.items()):
            *groups, key = name.split("/")
            place = record
            for group in groups:
                place = place.setdefault(group, {})
            place[key] = float(value)
        if not math.isfinite(record.get("loss", 0.0)):
            where = f"stage {self._stage}, epoch {record['epoch']}"
            raise UserError(f"the loss became {record['loss']} in {where}; a lower learning rate may help")
        record["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        record["ms"] = self._clock.milliseconds()
        record["seconds"] = round(time.perf_counter() - self._began, 3)
        self._out.log(record)


class SaveEpochs(Checkpoint):
    """Writes the stage's checkpoint after each epoch; Lightning calls Checkpoint callbacks last."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self._path)


class AgreeOnBuffers(Callback):
    """After the last epoch every process takes the main one's buffers, as a resumed run reads them back.

    DDP sends them out in front of a step only, so that batch statistics would differ from process to process
    in a network that goes on to teach or to be tested.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1:
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, src=0)


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint files, written to a temporary name, flushed and renamed; see folder.py."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        whole = io.BytesIO()  # a file that fails half-way through torch.save ends in a C++ error, no OSError
        torch.save(checkpoint, whole)
        with replacing(Path(path)) as file:
            file.write(whole.getbuffer())


_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `SaveEpochs` wrote, on the CPU: tensors and plain types, no code is run.

    Raises:
        UserError: the file is damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["epoch"], state["state_dict"]
    except _UNREADABLE as error:
        raise UserError(f"checkpoint {path} cannot be read; delete it to train this stage again") from error
    return state


def load_weights(module: LightningModule, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Load a checkpoint's weights. Raises UserError where they belong to another architecture."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).strip().splitlines()  # a heading, then one line a misfit
        raise UserError(
            f"checkpoint {path} does not fit this model: {lines[min(1, len(lines) - 1)].strip()}"
        ) from error
