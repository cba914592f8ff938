"""Teacher and students of one fold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import kdfast
from kdfast.recipes.common import models, network_parts
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_options import DTYPES
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.replay import WithRows, teacher_outputs
from kdfast.recipes.common.seeds import seed_all
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.kd_oct import views
from kdfast.recipes.kd_oct.folds import Fold
from kdfast.recipes.kd_oct.losses import ScaledCrossEntropy, TeacherLoss, balanced_weights, distiller
from kdfast.recipes.kd_oct.oct_data import OctSet, View
from kdfast.recipes.kd_oct.options import Options
from kdfast.recipes.kd_oct.rates import student_rates, teacher_rates
from kdfast.recipes.kd_oct.select import SelectingDistilled, SelectingReplayed, SelectingSupervised


@dataclass(frozen=True)
class Bench:
    """What the stages of a run share."""

    options: Options
    out: RunFolder
    data: OctSet

    def network(self, role: str) -> nn.Module:
        """A fresh teacher or student, its maps in the layout in which convolutions are fastest."""
        options = self.options
        spec = models.parse(f"--{role}", getattr(options, role))
        more = {"drop_rate": options.drop_rate} if spec.name.startswith("timm/") else {}
        if role == "teacher" and more and "convnext" in spec.name:
            more["drop_path_rate"] = options.drop_rate
        network = models.create(
            spec, classes=len(self.data.classes), size=options.image_size, pretrained=options.pretrained,
            option=f"--{role}", **more,
        )  # fmt: skip
        return network.to(memory_format=torch.channels_last)

    def class_weights(self, fold: Fold, role: str) -> torch.Tensor | None:
        """Balanced weights [K] of the fold's training labels, or None where the role's loss has none."""
        if self.options.class_weights == "none" or (role, self.options.class_weights) == (
            "student",
            "teacher",
        ):
            return None
        labels = torch.tensor([self.data.labels[row] for row in fold.train])
        return balanced_weights(labels, len(self.data.classes))

    def view(self, rows: list[int], kind: str) -> View:
        """Rows as they are trained on or, with "none", tested on."""
        make = {"teacher": views.teacher_train, "student": views.student_train, "none": views.plain}[kind]
        return View(self.data, rows, make(self.options.image_size))

    def loaders(self, fold: Fold, role: str) -> EpochData:
        options = self.options
        kind, size = options.augment, options.batch_size
        if role == "teacher":
            kind, size = options.teacher_augment, options.teacher_batch_size
        train = self.view(fold.train, kind)
        train = WithRows(train) if role == "student" and options.teacher_cache else train
        return EpochData(
            train, self.view(fold.validation, "none"), batch_size=size, workers=options.workers,
            drop_last=len(train) % size == 1,  # batch norm needs two
        )  # fmt: skip

    def train(self, stage: str, build: Callable[[], Any], fold: Fold, role: str, seed: int) -> Any:
        """One stage of train_stage; students of a fold and seed draw alike."""
        options = self.options
        first = role == "teacher"
        accumulate = options.teacher_accumulate if first else options.accumulate
        return train_stage(
            self.out, stage, build, self.loaders(fold, role), options,
            epochs=options.teacher_epochs if first else options.epochs, seed=seed,
            draws=stage if first else f"student-{stage.split('-', 1)[1]}",
            trainer_options={"accumulate_grad_batches": accumulate},
        )  # fmt: skip


def train_teacher(bench: Bench, number: int, fold: Fold) -> dict[str, nn.Module]:
    """{"best": ..., "swa": ...}: the epoch with the smallest validation loss, and the averaged weights."""
    options, classes = bench.options, len(bench.data.classes)
    weight = bench.class_weights(fold, "teacher")

    def build() -> SelectingSupervised:
        network = bench.network("teacher")
        loss = TeacherLoss(weight, mode=options.focal, gamma=options.gamma)
        made = SelectingSupervised(
            network, classes, teacher_rates(network, options), role="teacher", task_loss=loss
        )
        start = options.swa_start if options.swa_start >= 0 else None
        made.watch(network, loss=loss, by_loss=True, patience=options.teacher_patience, swa_start=start)
        return made

    stage = f"teacher-{number}"
    module = bench.train(stage, build, fold, "teacher", options.seed)
    found = {"best": module.selection.best.eval()}
    seed_all(options.seed, stage, "swa")  # the averaged network's batch statistics are of augmented images
    batches = DataLoader(
        bench.view(fold.train, options.teacher_augment), options.teacher_batch_size, shuffle=True
    )
    averaged = module.selection.averaged(batches, options.torch_device())
    return found | ({} if averaged is None else {"swa": averaged})


def train_student(bench: Bench, stage: str, fold: Fold, seed: int, teacher: nn.Module | None) -> Any:
    """The stage's Lightning module; `.selection.best` is the epoch with the highest validation accuracy.

    teacher: None for the student alone, on cross-entropy.
    """
    options, classes = bench.options, len(bench.data.classes)
    weight = bench.class_weights(fold, "student")
    loss = ScaledCrossEntropy(weight=weight)

    def build() -> SelectingSupervised | SelectingDistilled:
        network = bench.network("student")
        if teacher is None:
            made: Any = SelectingSupervised(network, classes, student_rates(options), task_loss=loss)
        else:
            d = distiller(
                network, teacher, ce=options.ce_weight, kl=options.kl_weight, temperature=options.temperature,
                weight=weight, teacher_dtype=DTYPES[options.teacher_precision],
            )  # fmt: skip
            made = _selecting(bench, d, fold)
        made.watch(network, loss=loss, by_loss=False, patience=options.patience)
        return made

    return bench.train(stage, build, fold, "student", seed)


def _selecting(bench: Bench, d: kdfast.Distiller, fold: Fold) -> SelectingDistilled | SelectingReplayed:
    """The Lightning module around a Distiller, whose teacher runs or has been run before."""
    options, classes = bench.options, len(bench.data.classes)
    if not options.teacher_cache:
        return SelectingDistilled(d, classes, student_rates(options))
    outputs = teacher_outputs(
        d, bench.view(fold.train, "none"), options.teacher_cache, batch_size=options.batch_size,
        workers=options.workers, device=options.torch_device(),
        view=f"{bench.data.source}; {options.image_size}; {bench.data.bad}",
    )  # fmt: skip
    return SelectingReplayed(d, classes, student_rates(options), outputs=outputs)


def read_teacher(bench: Bench, number: int, folds_digest: str) -> nn.Module:
    """The teacher of fold `number` of --teacher-run.

    Raises:
        UserError: it was trained on other folds, so that it may have seen patients tested here.
    """
    from kdfast.recipes.common.network_files import load_weights, note_of

    path = f"{bench.options.teacher_run}/teacher-{number}.safetensors"
    note = note_of("--teacher-run", path)
    if note.get("folds") != folds_digest:
        raise UserError(
            f"--teacher-run {bench.options.teacher_run}: its teachers were trained on other folds "
            f"({note.get('folds')}, not {folds_digest}) and may have seen patients that are tested here"
        )
    network = bench.network("teacher")
    spec = models.Spec(note["network"], path)
    head = network_parts.classifier_name(network)
    load_weights(network, spec, head, new_head=False, option="--teacher-run", wheels={})
    return network.eval()
