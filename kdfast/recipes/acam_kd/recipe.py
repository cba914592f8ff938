"""`kdfast distill acam_kd`: teacher, student alone, (student with the teacher's head,) distilled student.

The students of a seed start from the same weights and see the same images in the same order. Curves are on
validation images, by which settings were chosen; the test images are looked at once, after training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

import kdfast
from kdfast.recipes.acam_kd.eager import materialised
from kdfast.recipes.acam_kd.masks import MaskPictures
from kdfast.recipes.acam_kd.options import Options
from kdfast.recipes.acam_kd.report import write_report
from kdfast.recipes.acam_kd.tasks import Task, loaders, optimizer, task_of
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.share import measure_share
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights

CLIP = 35.0  # largest gradient norm of detectors, as in MasKD's configurations


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (first seed), teacher.safetensors and report.html."""
    task = task_of(options)
    for line in task.data.findings:
        say(f"data: {line}")
    scores: dict[str, list[dict[str, float]]] = {}
    first: dict[str, nn.Module] = {}  # the networks of the first seed

    def test(name: str, stage: str, network: nn.Module) -> None:
        found = out.result(f"{stage}-test", lambda: task.scores(network))
        scores.setdefault(name, []).append(found)
        first.setdefault(name, network)
        say(f"{stage:<14} test {task.metric} {found[task.metric]:.1%}")

    test("teacher", "teacher", _teacher(options, out, task))
    teacher = first["teacher"]
    for seed in options.seed_list():
        if options.baseline:
            test("student", f"student-{seed}", _student(options, out, task, seed, None))
        if options.inherited_baseline:
            test("inherited", f"inherited-{seed}", _student(options, out, task, seed, teacher))
        d = _distilled(options, out, task, seed, teacher)
        test("distilled", f"distilled-{seed}", d.export_student())
    for name, role in (("student", "distilled"), ("teacher", "teacher")):
        save_weights(out, f"{name}.safetensors", first[role], _facts(options, task, name))
    share = out.result("loss-share", lambda: _share(d, options, task))
    write_report(options, out, task, scores, share, first)


def _teacher(options: Options, out: RunFolder, task: Task) -> nn.Module:
    """Trained here, or read from --teacher-checkpoint."""
    if options.teacher_checkpoint is None:
        return _train(options, out, task, "teacher", options.seed, partial(task.network, "teacher"))
    path, network = Path(options.teacher_checkpoint).expanduser(), task.network("teacher")
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"--teacher-checkpoint {path} does not hold a {options.model} with {options.teacher}: {line}"
        ) from error
    return network.eval()


def _student(options: Options, out: RunFolder, task: Task, seed: int, teacher: nn.Module | None) -> nn.Module:
    """A student without distillation, with the teacher's neck and head if `teacher` is given."""

    def build() -> nn.Module:
        network = task.network("student")
        if teacher is not None:
            task.inherit(network, teacher)
        return network

    stage = "student" if teacher is None else "inherited"
    return _train(options, out, task, f"{stage}-{seed}", seed, build)


def _distilled(
    options: Options, out: RunFolder, task: Task, seed: int, teacher: nn.Module
) -> kdfast.Distiller:
    """The student under its own losses and ACAM-KD."""

    def build() -> kdfast.Distiller:
        student = task.network("student")
        if options.inherit == "yes":
            task.inherit(student, teacher)
        return task.distiller(student, teacher)

    return _train(options, out, task, f"distilled-{seed}", seed, build)


def _train(
    options: Options, out: RunFolder, task: Task, stage: str, seed: int, network: Callable[[], nn.Module]
) -> Any:
    """Train what `network` makes, a plain network or a Distiller, and return it."""
    role = "teacher" if stage == "teacher" else "student"

    def build() -> Any:
        made = network()
        optimize = optimizer(options, role)
        if not isinstance(made, kdfast.Distiller):
            return task.module(made, optimize, role=role)
        pictures = MaskPictures(out, task, stage)
        return task.module(made, optimize, details=partial(details, made), each_epoch=pictures)

    epochs = options.teacher_epochs if role == "teacher" else options.epochs
    clip = {"gradient_clip_val": CLIP} if options.task == "det" else {}
    module = train_stage(
        out, stage, build, loaders(task, options), options, epochs=epochs, seed=seed, draws=role,
        trainer_options=clip,
    )  # fmt: skip
    return module.network


def details(distiller: kdfast.Distiller) -> dict[str, Tensor]:
    """What is logged of ACAM-KD beside its total: its three losses, and each level's mask statistics."""
    last = distiller.terms[0].loss.last
    parts = {f"acam/{name}": last[name] for name in ("loss_s", "loss_c", "loss_div")}
    statistics = ("spatial_mean", "channel_mean", "spatial_overlap", "channel_overlap")
    masks = {f"masks/{name.replace('/', '-')}": v for name, v in last.items() if name.startswith(statistics)}
    return parts | masks


def _facts(options: Options, task: Task, role: str) -> dict[str, object]:
    names = ("task", "model", role, "width", "short_side", "long_side", "anchor_scale", "extra_levels",
             "head_norm", "output_stride")  # fmt: skip
    facts = {name: getattr(options, name) for name in names}
    return {"recipe": "acam_kd", "data": task.data.source, "classes": ", ".join(task.data.classes)} | facts


def _share(trained: kdfast.Distiller, options: Options, task: Task) -> dict[str, Any]:
    """Time of the loss within a step, against the equations with every tensor in memory."""
    device = options.torch_device()
    method = trained.to(device).train().terms[0].loss.distiller

    def plain(student: Any, teacher: Any, *_: Any) -> Tensor:
        ours = [student] if isinstance(student, Tensor) else student.values()
        theirs = [teacher] if isinstance(teacher, Tensor) else teacher.values()
        values = []
        for level, s, t in zip(method.per_level, ours, theirs, strict=True):
            loss_s, loss_c, loss_div = materialised(level, s, t)
            values.append(method.alpha * (loss_s + loss_c) + method.lambda_div * loss_div)
        return torch.stack(values).sum()

    inputs, target = torch.utils._pytree.tree_map_only(
        Tensor, lambda x: x.to(device), task.batch(options.batch_size)
    )
    return measure_share(trained, inputs, target, {"acam": plain}, rounds=8)
