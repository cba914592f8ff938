"""From a strong teacher to small students, with kdfast's fused losses.

The people of a task are split 60 / 20 / 20 into training, validation and test people. The teacher is an
LSTM, or an ensemble of it with a boosted and a logistic model, each cross-fitted: one model a fold of the
training people. A student learns the answers of the models that have not seen the person; a teacher asked
about its own training people only repeats their labels. For new people all of them answer together.

A student's loss is (1 - alpha) cross-entropy + alpha T^2 KL, unweighted, since the teacher's logits are
calibrated and class weights would pull the other way. Validation people calibrate and choose the threshold;
test people are looked at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from kdfast.recipes.common.clock import compare
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.options import RunOptions
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.evaluation import (
    CrossFitted,
    Platt,
    auroc,
    best_f1_threshold,
    bootstrap,
    cross_fit,
    scores,
    split,
)
from kdfast.recipes.esrd.models import Settings, make_model
from kdfast.recipes.esrd.models.students import make_student
from kdfast.recipes.esrd.models.training import RiskTraining, samples

TEACHERS: dict[str, tuple[str, ...]] = {"lstm": ("lstm",), "ensemble": ("lstm", "xgboost", "logistic")}
CROSS_FOLDS = 3


class Parts(NamedTuple):
    """Row numbers of a task's training, validation and test people."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_parts(task: Task, seed: int) -> Parts:
    """60 / 20 / 20, people whole, classes in equal shares. DataError if a part would lack a class."""
    groups = task.people["patient_id"].to_numpy()
    tests = [test for _, test in split(task.y, groups, 5, seed)]
    return Parts(np.sort(np.concatenate(tests[:3])), tests[3], tests[4])


class Teacher:
    """The mean of its members' calibrated logits."""

    def __init__(self, members: list[CrossFitted]) -> None:
        self.members = members
        self.crossed = np.mean([member.crossed for member in members], axis=0)  # [training people]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Of people it has not seen."""
        return np.mean([member.logits(x) for member in self.members], axis=0)

    def answers(self, task: Task) -> dict[str, list[float]]:
        """`crossed`, and the logits of everybody in `task` (true predictions for other than training people),
        for a run folder to keep.
        """
        return {"crossed": self.crossed.tolist(), "logits": self.logits(task.x).tolist()}


def fit_teacher(
    task: Task, parts: Parts, kind: str, settings: Settings, sizes: dict[str, Any], seed: int
) -> Teacher:
    """Every member cross-fitted on the training people."""
    rows = parts.train
    data = task.x[rows], task.y[rows], task.weight[rows], task.people["patient_id"].to_numpy()[rows]
    members = []
    for name in TEACHERS[kind]:
        build = partial(make_model, name, task.features, settings=settings, sizes=sizes, seed=seed)
        members.append(cross_fit(*data, build, CROSS_FOLDS, seed))
    return Teacher(members)


def fit_student(
    kind: str,
    task: Task,
    parts: Parts,
    teacher: np.ndarray | None,
    settings: Settings,
    options: RunOptions,
    out: RunFolder,
    name: str,
    seed: int,
    hidden: int = 8,
) -> nn.Module:
    """A student trained as a resumable stage, on labels and `teacher` logits or on labels alone (None)."""
    rows = parts.train
    settings = replace(settings, imbalance="none", alpha=settings.alpha if teacher is not None else 0.0)

    def build() -> RiskTraining:
        network = make_student(kind, task.features, task.x.shape[1], hidden=hidden)
        network.preparer.fit(task.x[rows])
        return RiskTraining(network, settings, 1.0)

    train = samples(task.x[rows], task.y[rows], task.weight[rows], teacher)
    check = samples(*(a[parts.validation] for a in (task.x, task.y, task.weight)))
    data = EpochData(train, check, batch_size=settings.batch_size, workers=options.workers)
    clip = {"gradient_clip_val": settings.clip}
    epochs = settings.epochs  # alone and distilled start from the same weights and see the same batches
    trained = train_stage(
        out, name, build, data, options, epochs=epochs, seed=seed, draws=kind, trainer_options=clip
    )
    return trained.network


@dataclass(frozen=True)
class Judged:
    """A model on the test people."""

    name: str
    parameters: int | None
    scores: dict[str, float]
    interval: tuple[float, float]  # of the AUROC
    p: np.ndarray
    threshold: float
    platt: Platt


def judge(name: str, logits: np.ndarray, task: Task, parts: Parts, size: int | None, seed: int) -> Judged:
    """`logits` [n] of the task's people: calibrated on the validation people, measured on the test people."""
    rows = parts.validation
    platt = Platt.fit(logits[rows], task.y[rows], task.weight[rows])
    threshold = best_f1_threshold(task.y[rows], platt(logits[rows]), task.weight[rows])
    rows = parts.test
    y, p, w = task.y[rows], platt(logits[rows]), task.weight[rows]
    interval = bootstrap(lambda i: auroc(y[i], p[i], w[i]), len(y), seed=seed)
    return Judged(name, size, scores(y, p, w, threshold=threshold), interval, p, threshold, platt)


def gain_interval(a: Judged, b: Judged, task: Task, parts: Parts, seed: int) -> tuple[float, float]:
    """95 % interval of AUROC(a) - AUROC(b) on the same resampled test people."""
    y, w = task.y[parts.test], task.weight[parts.test]
    return bootstrap(lambda i: auroc(y[i], a.p[i], w[i]) - auroc(y[i], b.p[i], w[i]), len(y), seed=seed)


def latency(
    runs: dict[str, Callable[[np.ndarray], np.ndarray]], x: np.ndarray, sizes: Sequence[int] = (1, 256)
) -> dict[str, list[float]]:
    """Median milliseconds on the CPU of each model for one person and for 256, one thread, interleaved."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: dict[str, list[float]] = {name: [] for name in runs}
        for size in sizes:
            batch = np.resize(x, (size, *x.shape[1:]))
            timed = {name: partial(run, batch) for name, run in runs.items()}
            for name, value in compare(timed, rounds=15).items():
                found[name].append(value)
        return found
    finally:
        torch.set_num_threads(threads)


def size_of(model: Any) -> int | None:
    """Parameters of a network; None where the word does not fit."""
    network = getattr(model, "network_", model)
    return sum(p.numel() for p in network.parameters()) if isinstance(network, nn.Module) else None
