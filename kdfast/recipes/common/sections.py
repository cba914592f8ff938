"""Report sections that every recipe can add from metrics.jsonl: curves by stage, loss terms, step times,
settings.

Stages that differ in a number at the end ("student-0", "student-1") are one line: the mean over those seeds.
"""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isnan, nan
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report

Record = dict[str, Any]


CALLED = {
    "student": "student alone",
    "distilled": "distilled student",
    "single": "one head for both losses",
}


def group(stage: str) -> str:
    """The stage's name without fold and seed: "student-1", "student-0-1" -> "student"."""
    return re.sub(r"(-\d+)+$", "", stage)


def called(name: str) -> str:
    """What a stage group is called in a report."""
    return CALLED.get(name, name)


def add_kinds(
    report: Report,
    heading: str,
    scores: Mapping[str, Mapping[str, float]],
    *,
    percent: bool = False,
    note: str = "",
) -> None:
    """Network -> kind (a class, a size) -> score, a kind a row so that 80 classes fit; NaN is left empty."""
    kinds = dict.fromkeys(kind for values in scores.values() for kind in values)
    columns = [values.get for values in scores.values()]
    rows = [(kind, *(_share(score(kind, nan), percent) for score in columns)) for kind in kinds]
    report.table(heading, ("", *map(called, scores)), rows, half=True, note=note)


def _share(value: float, percent: bool) -> str:
    return "" if isnan(value) else f"{value:.1%}" if percent else f"{value:.3f}"


def series(
    out: RunFolder, value: Callable[[Record], float | None]
) -> dict[str, tuple[list[int], list[float]]]:
    """Stage group -> epochs and mean values, of the records for which `value` gives one."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in out.records():
        if (number := value(record)) is not None:
            found[group(record["stage"])][record["epoch"]].append(number)
    return {name: (list(epochs), [mean(v) for v in epochs.values()]) for name, epochs in found.items()}


def size(network: nn.Module, example: Any) -> tuple[int, int]:
    """Number of parameters, and of multiply-adds in a forward pass of `example`: a batch of one, or a list of
    one image.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(tree_map_only(torch.Tensor, lambda x: x.to(dtype), example))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def add_scores(
    report: Report,
    scores: Mapping[str, Sequence[float]],
    metric: str,
    sizes: Mapping[str, tuple[int, int]],
    *,
    note: str = "",
) -> None:
    """Tiles with the mean score of each network and a table with their spread over seeds.

    Args:
        scores: "teacher", "student" (alone), "distilled" or others -> shares in [0, 1], one for each seed.
        sizes: the same names -> `size` of the network.
    """
    found = {name: list(values) for name, values in scores.items() if values}
    report.tiles({f"{called(name)}, {metric}": f"{mean(v):.1%}" for name, v in found.items()})
    rows = [
        (called(name), *(f"{number:,}" for number in sizes[name]), f"{mean(v):.2%}", _spread(v), len(v))
        for name, v in found.items()
    ]
    note = f"Mean and standard deviation over the seeds. {note}".strip()
    report.table(
        "Results", ("network", "parameters", "multiply-adds", metric, "spread", "seeds"), rows, note=note
    )


def _spread(values: Sequence[float]) -> str:
    return f"{stdev(values):.2%}" if len(values) > 1 else ""


def add_loss_share(report: Report, share: Mapping[str, Any], *, note: str = "") -> None:
    """The result of `share.measure_share`."""
    loss = share["loss"]
    rows = [(name, f"{loss[name]:.3f}", f"{share['share'][name]:.1%}") for name in loss]
    how = (
        "All loss terms, forward and backward, on one batch's tensors; medians of interleaved runs. "
        f"Forward and backward of the whole step take {share['step']:.1f} ms."
    )
    columns = ("loss computed by", "ms", "share of the step")
    report.table("The loss's share of a step", columns, rows, half=True, note=f"{how} {note}".strip())


def add_curves(
    report: Report, out: RunFolder, key: str, heading: str, *, note: str = "", **style: Any
) -> None:
    """One line a stage group of the logged number `key`, "val_accuracy" or "loss" for instance."""
    lines = series(out, lambda record: record.get(key))
    if lines:
        report.curves(heading, {called(name): line for name, line in lines.items()}, note=note, **style)


def add_terms(report: Report, out: RunFolder, heading: str = "Loss terms", *, note: str = "") -> None:
    """One line for each loss term of each stage group that has more than one."""
    names = {
        (group(record["stage"]), term)
        for record in out.records()
        for term in record.get("terms", {})
        if len(record["terms"]) > 1
    }
    lines = {
        f"{called(stage)}: {term}": series(out, partial(_term, term))[stage] for stage, term in sorted(names)
    }
    if lines:
        report.curves(heading, lines, ylabel="loss", log=True, note=note)


def _term(name: str, record: Record) -> float | None:
    return record.get("terms", {}).get(name)


def add_step_times(
    report: Report, out: RunFolder, heading: str = "Where a training step's time goes"
) -> None:
    """Median milliseconds of data, teacher, student, loss, backward and optimizer, by stage group."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in out.records():
        for part, length in record.get("ms", {}).items():
            found[group(record["stage"])][part].append(length)
    parts = sorted({part for parts in found.values() for part in parts}, key=_place)
    bars = {
        called(stage): {part: median(times[part]) if part in times else 0.0 for part in parts}
        for stage, times in found.items()
    }
    if bars:
        report.stack(heading, bars, xlabel="ms a step, median", note="Other: logging and metrics.")


def _place(part: str) -> int:
    order = ("data", "augment", "teacher", "student", "loss", "backward", "optimizer", "other")
    return order.index(part) if part in order else order.index("loss")


def add_settings(report: Report, options: Any) -> None:
    """The run's options and what it ran on."""
    import kdfast

    device = torch.cuda.get_device_name() if options.torch_device() == "cuda" else "CPU"
    facts = {f"--{name.replace('_', '-')}": value for name, value in vars(options).items()}
    facts |= {"kdfast": kdfast.__version__, "torch": torch.__version__, "Python": platform.python_version()}
    report.facts("Settings", facts | {"device": device, "threads": torch.get_num_threads()})
