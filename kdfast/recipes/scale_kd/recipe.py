"""`kdfast distill scale_kd`: a vision transformer, students alone, students under ScaleKD, their report."""

from __future__ import annotations

from functools import partial

import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from kdfast.recipes.common import network_parts
from kdfast.recipes.common.augment import MEAN, STD
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.study import Study
from kdfast.recipes.scale_kd import small  # noqa: F401  registers its networks with timm
from kdfast.recipes.scale_kd.method import ScaleKD
from kdfast.recipes.scale_kd.options import Options
from kdfast.recipes.scale_kd.report import write_report
from kdfast.recipes.scale_kd.students import find_paths
from kdfast.recipes.scale_kd.teachers import parts_of

__all__ = ["Options", "run"]


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    study = TransformerStudy("scale_kd", options, out)
    study.task_loss = task_loss(options)
    study.teacher()
    study.compare({"distilled": partial(build, options, study)})
    write_report(study, options)


def build(options: Options, study: Study, student: nn.Module, teacher: nn.Module, _: list[int]) -> ScaleKD:
    """The student under the paper's loss."""
    example = study.images.example().expand(2, -1, -1, -1)
    try:
        return ScaleKD(
            student, teacher, example,
            spatial_weight=options.spatial_weight, alternative_weight=options.alternative_weight,
            alpha=options.alpha, kd=options.kd, temperature=options.temperature,
            softmax_scale=options.softmax_scale, eps=options.eps, reduction=options.reduction,
            task_loss=task_loss(options),
            student_taps=options.taps() or _taps(student, example),
            teacher_train_mode=options.teacher_train_mode, teacher_dtype=options.teacher_dtype(),
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:  # torch's, where images are too small for the network
        reason = str(error).splitlines()[0]
        raise UserError(f"--student {options.student}: {reason}") from error


def task_loss(options: Options) -> nn.Module:
    """The labels' term."""
    if options.task == "bce":
        return BinaryCrossEntropy(smoothing=0.0)  # the mean over classes
    return nn.CrossEntropyLoss(label_smoothing=options.label_smoothing)


def _taps(student: nn.Module, example: Tensor) -> tuple[str, ...]:
    try:
        return find_paths(student)
    except ValueError:  # of no timm network: the last map of each of the last two sizes
        return tuple(path for path, _ in network_parts.stages(student, example)[-2:])


class TransformerStudy(Study):
    """A Study whose teacher must be a transformer, and gets images as it was trained to."""

    def make(self, role: str, **more: float) -> nn.Module:
        network = super().make(role, **more)
        if role == "teacher":
            try:
                parts_of(network)
            except ValueError as error:
                raise UserError(f"--teacher {self.options.teacher}: {error}") from error
            if self.specs["teacher"].weights or self.options.pretrained:
                fold_normalisation(network)
        return network


def fold_normalisation(model: nn.Module) -> None:
    """Let a timm model with another normalisation than ImageNet's take ImageNet's, exactly.

    Its patch embedding has no padding, so that the change of mean and deviation goes into the weights.
    """
    given = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (torch.tensor(given.get(key, own)) for key, own in (("mean", MEAN), ("std", STD)))
    projection = model.patch_embed.proj
    if projection.in_channels != 3 or (tuple(mean.tolist()), tuple(std.tolist())) == (MEAN, STD):
        return
    scale, shift = torch.tensor(STD) / std, (torch.tensor(MEAN) - mean) / std
    with torch.no_grad():
        projection.bias += torch.einsum("oihw,i->o", projection.weight, shift)
        projection.weight *= scale.view(1, -1, 1, 1)
