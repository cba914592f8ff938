"""Training one model to the end, or from where it stopped: `train_stage`.

A run is a list of stages with names ("teacher", "student-0", ...), trained one after the other by Lightning.
After each epoch a line goes to metrics.jsonl and the state to checkpoint/STAGE.ckpt. When the run is
resumed, a finished stage is read back, a begun one goes on after its last whole epoch, and the rest follows:
bit for bit what an unbroken run on the same machine, with the same number of threads and processes, would
have given (see seeds.py).
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kdfast.recipes.common.callbacks import (
    AgreeOnBuffers,
    AtomicCheckpoints,
    Journal,
    SaveEpochs,
    SeedEpochs,
    load_weights,
    read_checkpoint,
)
from kdfast.recipes.common.clock import StepClock
from kdfast.recipes.common.errors import Interrupted
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.options import RunOptions
from kdfast.recipes.common.progress import reporter
from kdfast.recipes.common.ranks import layout
from kdfast.recipes.common.seeds import derive, seed_all

Module = TypeVar("Module", bound=LightningModule)


def train_stage(
    out: RunFolder,
    name: str,
    build: Callable[[], Module],
    data: EpochData,
    options: RunOptions,
    *,
    epochs: int,
    seed: int | None = None,
    draws: str | None = None,
    trainer_options: Mapping[str, Any] | None = None,
) -> Module:
    """Train the module that `build` makes for `epochs` epochs and return it, on the CPU.

    A module with `finished()` is told when its training is over, in this run or in one that was resumed.

    Args:
        build: called with every generator seeded for this stage, so that it starts from the same weights
            each time. If the module has `timed_parts()`, a dict of submodules, the step clock times each
            (see StepClock).
        data: the loaders; see EpochData.
        seed: of this stage, `options.seed` by default.
        draws: stages with equal `seed` and `draws` draw the same random numbers, so that a student alone and
            a distilled one start from the same weights and see the same images; `name` by default.
        trainer_options: further or other arguments of lightning's Trainer, such as gradient_clip_val.

    Raises:
        UserError: the checkpoint cannot be read, belongs to another architecture, or cannot be written.
    """
    origin = (options.seed if seed is None else seed, draws or name)
    seed_all(*origin)
    module = build()
    path = out.checkpoint(name)
    state = read_checkpoint(path) if path.exists() else None
    done = 0 if state is None else int(state["epoch"]) + 1  # whole epochs
    if state is not None:
        load_weights(module, state["state_dict"], path)
    if done >= epochs:
        return _finished(module)
    out.forget(name, done)
    data.begin(derive(*origin), done)
    clock = StepClock(module.timed_parts() if hasattr(module, "timed_parts") else {})
    callbacks = [SeedEpochs(*origin), clock, reporter(options.progress, name, done)]
    callbacks += [Journal(out, name, clock), SaveEpochs(path), AgreeOnBuffers()]
    trainer = _trainer(options, epochs, callbacks, dict(trainer_options or {}))
    _fit(trainer, module, data, path if done else None)
    return _finished(module)


def _finished(module: Module) -> Module:
    if hasattr(module, "finished"):
        module.finished()
    return module.eval()


def _trainer(options: RunOptions, epochs: int, callbacks: list[Callback], more: dict[str, Any]) -> Trainer:
    """Lightning's Trainer, quiet, with our checkpoint files and without its own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    devices, nodes = layout(options.devices, options.nodes)
    settings: dict[str, Any] = {
        "accelerator": "gpu" if options.device == "cuda" else options.device,
        "devices": devices,
        "num_nodes": nodes,
        "strategy": "ddp" if devices * nodes > 1 else "auto",
        "precision": options.precision,
        "max_epochs": epochs,
        "callbacks": callbacks,
        "plugins": [AtomicCheckpoints()],
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,  # EpochData shares the samples out
        "num_sanity_val_steps": 0,
        "deterministic": "warn",
    }
    return Trainer(**settings | more)


def _fit(trainer: Trainer, module: LightningModule, data: EpochData, checkpoint: Path | None) -> None:
    """Trainer.fit, where a signal ends in Interrupted (Lightning would exit with 1 or 0 and say nothing)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning 2.6 with torch 2.14
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except SIGTERMException as error:
            raise Interrupted("terminated", 128 + signal.SIGTERM) from error
        except SystemExit as error:
            if trainer.interrupted:
                raise Interrupted("interrupted", 128 + signal.SIGINT) from error
            raise
