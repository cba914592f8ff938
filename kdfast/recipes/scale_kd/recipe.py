"""`kdfast distill scale_kd`: a vision transformer, students alone, students under ScaleKD, their report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdfast.recipes.common import models, sections
from kdfast.recipes.common.augment import MEAN, STD
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_options import ImageOptions
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.study import Study
from kdfast.recipes.scale_kd import small  # noqa: F401  registers its networks with timm
from kdfast.recipes.scale_kd.method import ScaleKD
from kdfast.recipes.scale_kd.students import find_paths
from kdfast.recipes.scale_kd.teachers import parts_of

TITLE = "ScaleKD: a vision transformer teaches {student}"
SMALL_NOTE = (
    "Of few channels a call costs more than its arithmetic; kdfast bench normalized_mse has larger sizes."
)


@dataclass(kw_only=True)
class Options(ImageOptions):
    """Options of `kdfast distill scale_kd`. The loss's defaults are the paper's; data and networks are those
    of the demonstration: a teacher trained on all images, students that get a twentieth of them.
    """

    data: str = "animals"
    """mnist, digits, animals, elpv or stamps (built in), or a folder: CIFAR's python files, CLASS/*.jpg, or
    train/ and val/ (ImageNet)"""

    label_share: float = 0.05
    """share of the training images that the students get; the teacher has seen all, as one pretrained on
    larger data would have"""

    teacher: str = "swin_mini"
    """a Swin, Swin v2, ViT, DeiT or BEiT: timm's name, swin_mini or vit_mini (28 x 28), NAME@WEIGHTS"""

    student: str = "cifar_resnet8"
    """any network: timm's or torchvision's name, cifar_..., NAME@WEIGHTS"""

    student_taps: str = ""
    """the two modules whose maps are compared, PATH,PATH; found by themselves in most networks"""

    spatial_weight: tuple[float, float] = (0.08, 0.08)
    """a0 of stage 3 and stage 4"""

    alternative_weight: tuple[float, float] = (0.06, 0.06)
    """a1 of stage 3 and stage 4"""

    alpha: float = 0.5
    """weight of the soft cross-entropy; the labels' term has 1 - alpha"""

    kd: bool = True
    """the soft cross-entropy; --no-kd as in the paper's Swin-S setting"""

    temperature: float = 1.0
    """tau of the soft cross-entropy"""

    softmax_scale: float = 5.0
    """gamma of the projectors' attention"""

    reduction: Literal["sum_hw", "mean_hw"] = "sum_hw"
    """feature losses summed over positions, the paper's, or averaged"""

    eps: float = 1e-6
    """smallest norm that is divided by; the paper's is 1e-12"""

    label_smoothing: float = 0.0
    """of the labels' term, for students alone too; the paper's 0.1 for ViT and MobileNet students"""

    teacher_train_mode: bool = False
    """run the teacher with its stochastic depth while training, as the published code did"""

    teacher_lr: float = 0.001
    """the teacher's learning rate; small transformers learn less at the 0.003 of the students"""

    teacher_epochs: int = 30
    """passes of the teacher over the training images; 0 takes its weights (NAME@WEIGHTS) as they are"""

    epochs: int = 30
    """passes of each student over its images"""

    threads: int = 1
    """CPU threads of each process"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"option --alpha: a number in [0, 1] is needed, got {self.alpha}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"option --label-smoothing: [0, 1) is needed, got {self.label_smoothing}")
        if self.student_taps and len(self.taps()) != 2:
            raise ValueError(f"option --student-taps: PATH,PATH is needed, got {self.student_taps}")
        if self.teacher_train_mode and self.teacher_cache:
            raise ValueError(
                "option --teacher-cache: a teacher in training mode has no fixed outputs to keep"
            )

    def taps(self) -> list[str]:
        """The two paths; empty if they are to be found."""
        return self.student_taps.split(",") if self.student_taps else []


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


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    study = TransformerStudy("scale_kd", options, out)
    study.teacher()
    study.compare({"distilled": partial(build, options, study)})
    plain = {name: partial(plain_view, center=name.startswith("alt"), eps=options.eps) for name in VIEWS}
    seen = "was trained on all training images" if options.teacher_epochs else "is used as it was given"
    report = study.report(
        TITLE.format(student=options.student), plain=plain | {"kd": partial(plain_kd, options.temperature)},
        note=f"The teacher, {options.teacher}, {seen}.", share_note=SMALL_NOTE,
        more=lambda report: (add_falls(report, out), add_cost(report, study)),
    )  # fmt: skip
    report.write(out)


def build(options: Options, study: Study, student: nn.Module, teacher: nn.Module, _: list[int]) -> ScaleKD:
    """The student under the paper's loss."""
    example = study.images.example().expand(2, -1, -1, -1)
    try:
        return ScaleKD(
            student, teacher, example,
            spatial_weight=options.spatial_weight, alternative_weight=options.alternative_weight,
            alpha=options.alpha, kd=options.kd, temperature=options.temperature,
            softmax_scale=options.softmax_scale, eps=options.eps, reduction=options.reduction,
            task_loss=nn.CrossEntropyLoss(label_smoothing=options.label_smoothing),
            student_taps=options.taps() or _taps(student, example),
            teacher_train_mode=options.teacher_train_mode, teacher_dtype=options.teacher_dtype(),
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:  # torch's, where images are too small for the network
        reason = str(error).splitlines()[0]
        raise UserError(f"--student {options.student}: {reason}") from error


def _taps(student: nn.Module, example: Tensor) -> tuple[str, ...]:
    try:
        return find_paths(student)
    except ValueError:  # of no timm network: the last map of each of the last two sizes
        return tuple(path for path, _ in models.stages(student, example)[-2:])


VIEWS = ("spat_3", "alt_3", "spat_4", "alt_4")


def plain_view(student: Tensor, teacher: Tensor, *, center: bool, eps: float) -> Tensor:
    """ViewLoss in plain PyTorch, for teachers without class tokens."""
    teacher = teacher.flatten(1, 2) if teacher.dim() == 4 else teacher[:, -student.size(1) :]
    s, t = (x - x.mean(1, keepdim=True) if center else x for x in (student, teacher))
    s, t = (F.normalize(x, dim=-1, eps=eps) for x in (s, t))
    return (s - t).square().sum() / len(s)


def plain_kd(temperature: float, student: Tensor, teacher: Tensor) -> Tensor:
    """SoftCrossEntropy in plain PyTorch."""
    return temperature**2 * F.cross_entropy(student / temperature, (teacher / temperature).softmax(-1))


def add_falls(report: Report, out: RunFolder) -> None:
    """Each loss term's first and last epoch."""
    records = [r for r in out.records() if sections.group(r["stage"]) == "distilled"]
    last = max(record["epoch"] for record in records)
    rows = []
    for term in records[0]["terms"]:
        first, final = (_mean(records, epoch, lambda r, term=term: r["terms"][term]) for epoch in (1, last))
        rows.append((term, f"{first:.3f}", f"{final:.3f}", f"{final / first - 1:+.0%}"))
    note = "Means over the seeds, before the terms' weights; spat and alt are at most 4 a position."
    report.table(
        "Do the losses fall?", ("term", "epoch 1", f"epoch {last}", "change"), rows, half=True, note=note
    )


def _mean(records: list[dict[str, Any]], epoch: int, value: Callable[[dict[str, Any]], float]) -> float:
    found = [value(record) for record in records if record["epoch"] == epoch]
    return sum(found) / len(found)


def add_cost(report: Report, study: Study) -> None:
    """What the projectors add to training; they are not part of the student."""
    distiller = study.distillers["distilled"].cpu()
    images = study.images.example()
    sizes = {name: sections.size(net, images) for name, net in study.networks.items() if name != "student"}
    wrapped = distiller.student
    with wrapped.projecting():
        _, whole = sections.size(wrapped, images)
    caps = sum(p.numel() for p in wrapped.projectors.parameters())
    rows = [
        ("student", *sizes["distilled"]),
        ("projectors, and the teacher's last part behind them", caps, whole - sizes["distilled"][1]),
        ("teacher", *sizes["teacher"]),
    ]
    note = (
        f"{len(wrapped.projectors.caps)} projectors, trained with the student and then left behind. Forward "
        "pass of one image; the last part is the teacher's, its parameters are not counted again."
    )
    rows = [(name, f"{count:,}", f"{adds:,}") for name, count, adds in rows]
    report.table("What training costs", ("part", "parameters", "multiply-adds"), rows, half=True, note=note)
