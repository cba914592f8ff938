"""report.html of an ACAM-KD run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from kdfast.recipes.acam_kd.masks import COLLAPSED
from kdfast.recipes.acam_kd.options import Options
from kdfast.recipes.acam_kd.tasks import Task
from kdfast.recipes.common import sections
from kdfast.recipes.common.dense.pictures import PAGE, legend, row_height
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report

Scores = Mapping[str, Sequence[Mapping[str, float]]]
CALLED = {"inherited": "student alone, teacher's head"}
SHOWN = 3  # test images


def write_report(
    options: Options,
    out: RunFolder,
    task: Task,
    scores: Scores,
    share: Mapping[str, Any],
    networks: Mapping[str, nn.Module],
) -> None:
    """Write OUT/report.html.

    scores: network -> what `task.scores` gave, for each seed; networks: those of the first seed.
    """
    networks = {name: network.cpu().eval() for name, network in networks.items()}
    what = {"det": "detector", "seg": "segmenter"}[options.task]
    report = Report(f"ACAM-KD of a {what}", subtitle=f"{task.data.source} · {out.path}")
    example = task.example(task.data.test[0][0])
    with torch.no_grad():
        sizes = {name: sections.size(network, example) for name, network in networks.items()}
    main = {name: [each[task.metric] for each in seeds] for name, seeds in scores.items()}
    sections.CALLED.update(CALLED)
    sections.add_scores(report, main, f"test {task.metric}", sizes, note=_note(options, task, scores))
    _add_predictions(report, task, networks)
    _add_kinds(report, task, scores)
    sections.add_curves(
        report, out, task.logged, f"Validation {task.metric}", ylabel=task.metric, percent=True
    )
    sections.add_terms(report, out)
    _add_masks(report, out)
    sections.add_step_times(report, out)
    sections.add_loss_share(
        report,
        share,
        note="Plain PyTorch: attention map and masked maps in memory, as in the paper's equations.",
    )
    sections.add_settings(report, options)
    report.write(out)


def _note(options: Options, task: Task, scores: Scores) -> str:
    """What the numbers say about distillation, in words, and where they come from."""
    data = task.data
    counts = (len(part) for part in (data.train, data.validation, data.test))
    text = "{} training, {} validation and {} test images; test images are looked at once. ".format(*counts)
    for other in ("student", "inherited"):
        if other in scores:
            pairs = zip(scores["distilled"], scores[other], strict=True)
            gains = [ours[task.metric] - theirs[task.metric] for ours, theirs in pairs]
            spread = f" (standard deviation {100 * stdev(gains):.1f})" if len(gains) > 1 else ""
            better = sum(gain > 0 for gain in gains)
            text += (
                f"Against the {CALLED.get(other, 'student alone')} of the same seed the distilled one has "
                f"{100 * mean(gains):+.1f} points{spread} and is better in {better} of {len(gains)}. "
            )
    return text + " ".join(data.findings)


def _add_kinds(report: Report, task: Task, scores: Scores) -> None:
    """AP by size and class, or IoU by class: means over the seeds."""
    found: dict[str, dict[str, float]] = {}
    for network, seeds in scores.items():
        names = dict.fromkeys(name for each in seeds for name in each if name in task.shown or " " in name)
        found[network] = {name: mean(each.get(name, nan) for each in seeds) for name in names}
    sections.add_kinds(
        report, f"{task.metric} by kind", found, percent=True, note="Test images, means over the seeds."
    )


def _add_predictions(report: Report, task: Task, networks: Mapping[str, nn.Module]) -> None:
    """Test images at equal distances in the list: what is there, and what each network sees."""
    pictures, count = [], len(task.data.test)
    for place in range(min(SHOWN, count)):
        row = (2 * place + 1) * count // (2 * min(SHOWN, count))
        image, target = task.data.test[row]
        pictures.append((f"image {row + 1}: labels", task.wanted(image, target)))
        pictures += [(sections.called(name), task.drawn(each, image)) for name, each in networks.items()]
    height = row_height(pictures[0][1], len(networks) + 1)  # an image a row
    report.images("Predictions on test images", pictures, height=height, note=_legend(task))


def _legend(task: Task) -> str:
    if task.metric == "AP":
        return f"Boxes with a score of at least 0.4, networks of the first seed: {legend(task.data.classes)}."
    rest = legend(task.data.classes[1:])
    return f"Networks of the first seed; {task.data.classes[0]} is left uncoloured, {rest}."


def _add_masks(report: Report, out: RunFolder) -> None:
    """The mean of the masks over the epochs, and sheets of the first, a middle and the last epoch."""
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for record in out.records():
        if sections.group(record["stage"]) != "distilled" or record["stage"] != _first(out):
            continue
        for name, value in record.get("masks", {}).items():
            kind, _, level = name.partition("-")
            if kind.endswith("_mean"):
                x, y = lines.setdefault(f"{kind.removesuffix('_mean')}, level {level}", ([], []))
                x.append(record["epoch"])
                y.append(value)
    if lines:
        note = f"First seed. All start near 0.5; below {COLLAPSED} a level's masks have collapsed."
        report.curves("Mean of the masks", lines, ylabel="mean mask", note=note)
    files = sorted((out.path / "masks" / _first(out)).glob("epoch-*.png")) if _first(out) else []
    chosen = list(dict.fromkeys([*files[:1], *files[len(files) // 2 : len(files) // 2 + 1], *files[-1:]]))
    if chosen:
        pictures = [(path.stem.replace("-", " "), np.asarray(Image.open(path))) for path in chosen]
        note = "Levels from fine to coarse, six masks a row; first validation image. masks/ has all epochs."
        rows, columns = pictures[0][1].shape[:2]
        report.images("Spatial masks", pictures, height=min(500, PAGE * rows // columns), note=note)


def _first(out: RunFolder) -> str:
    """The first distilled stage."""
    return next((r["stage"] for r in out.records() if sections.group(r["stage"]) == "distilled"), "")
