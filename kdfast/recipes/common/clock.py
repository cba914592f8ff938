"""How the time of a training step splits: data, teacher, student, loss, backward, optimizer, other.

On the CPU a mark is a clock reading. On a GPU it is a CUDA event, read once an epoch, so no step waits for
it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

Mark = float | torch.cuda.Event


class StepClock(Callback):
    """Measures the parts of every step; `milliseconds()` gives their medians over the epoch.

    Args:
        parts: modules to time within the forward pass, such as {"loss": distiller, "teacher": ...}. A part
            called inside another counts for itself only: "loss" is then the Distiller without its networks.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._parts = dict(parts)
        self._hooks: list[Any] = []
        self._cuda = False
        self._reset()

    def _reset(self) -> None:
        self._open: list[tuple[str, Mark]] = []
        self._spans: dict[str, list[tuple[Mark, Mark]]] = defaultdict(list)
        self._inside: dict[str, str] = {}  # part -> the part around it

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cuda = pl_module.device.type == "cuda"
        for name, module in self._parts.items():
            self._hooks.append(module.register_forward_pre_hook(partial(self._enter, name)))
            self._hooks.append(module.register_forward_hook(partial(self._leave, name)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def on_train_epoch_start(self, *_: Any) -> None:
        self._reset()
        self._start("data")

    def on_train_batch_start(self, *_: Any) -> None:
        self._stop("data")
        self._start("other")

    def on_before_backward(self, *_: Any) -> None:
        self._stop("other")
        self._start("backward")

    def on_after_backward(self, *_: Any) -> None:
        self._stop("backward")
        self._start("optimizer")

    def on_train_batch_end(self, *_: Any) -> None:
        self._stop("optimizer")
        self._start("data")

    def milliseconds(self) -> dict[str, float]:
        """Median of each part; "other" is the rest of the forward pass: logging, metrics, casts."""
        if self._cuda:
            torch.cuda.synchronize()
        times = {name: median(_length(span) for span in spans) for name, spans in self._spans.items()}
        order = [name for name in ("data", *self._parts, "backward", "optimizer", "other") if name in times]
        inner = {
            name: sum(times[p] for p, around in self._inside.items() if around == name) for name in order
        }
        return {name: round(max(0.0, times[name] - inner[name]), 4) for name in order}

    def _mark(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _enter(self, name: str, *_: Any) -> None:
        if self._open and self._open[0][0] == "other":  # in a training step, not in validation
            self._inside[name] = self._open[-1][0]
            self._start(name)

    def _leave(self, name: str, *_: Any) -> None:
        self._stop(name)

    def _start(self, name: str) -> None:
        self._open.append((name, self._mark()))

    def _stop(self, name: str) -> None:
        if self._open and self._open[-1][0] == name:
            self._spans[name].append((self._open.pop()[1], self._mark()))


def _length(span: tuple[Mark, Mark]) -> float:
    """Milliseconds between two marks."""
    start, stop = span
    return start.elapsed_time(stop) if isinstance(start, torch.cuda.Event) else (stop - start) * 1e3


def compare(
    runs: Mapping[str, Callable[[], object]], *, rounds: int = 30, warmup: int = 3
) -> dict[str, float]:
    """Median milliseconds of each callable, in turns, so that a slow moment of the machine hits all alike."""
    cuda = torch.cuda.is_available()
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:  # nobody always comes first
            if cuda:
                torch.cuda.synchronize()
            start = time.perf_counter()
            runs[name]()
            if cuda:
                torch.cuda.synchronize()
            if turn >= warmup:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: median(values) for name, values in times.items()}
