"""Teacher, class means of its regions, students alone and distilled students, tested on the test images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from kdfast.nn import ClassMeans
from kdfast.recipes.common import sections
from kdfast.recipes.common.dense.detection import DetectionData, detection_data
from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.detectors import detector
from kdfast.recipes.common.dense.lightning import Detection
from kdfast.recipes.common.dense.metrics import evaluate_detector
from kdfast.recipes.common.dense.schedules import sgd_steps
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.network_files import read_weights
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.seeds import seed_all
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.nd.detection import NDDetector, region_means
from kdfast.recipes.nd.means import save_means
from kdfast.recipes.nd_detection.options import Options
from kdfast.recipes.nd_detection.report import write_report
from kdfast.recipes.nd_detection.share import loss_share

MEANS = "region-means.safetensors"


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    data = detection_data(
        options.data, options.data_root, short_side=options.short_side, long_side=options.long_side,
        skip_bad=options.skip_bad, cache=True,
    )  # fmt: skip
    scores: dict[str, list[dict[str, float]]] = {"teacher": [], "student": [], "distilled": []}
    first: dict[str, nn.Module] = {}
    share: dict[str, Any] = {}

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
        share = share or _share(options, out, data, trained)
    facts = {"recipe": "nd_detection", "network": options.backbone, "data": data.source}
    save_weights(out, "student.safetensors", first["distilled"], facts)
    write_report(options, out, data, scores, first, share)


def network(options: Options, backbone: str, classes: int, weights: str | None) -> nn.Module:
    """A Faster R-CNN with a pyramid on `backbone`."""
    return detector(
        "faster_rcnn", backbone, classes, short_side=options.short_side, long_side=options.long_side,
        fpn_channels=options.fpn_channels, anchor_scale=options.anchor_scale, weights=weights,
        box_batch_size_per_image=options.regions,
    )  # fmt: skip


def _share(options: Options, out: RunFolder, data: DetectionData, trained: NDDetector) -> dict[str, Any]:
    samples = [data.train[row] for row in range(min(options.batch_size, len(data.train)))]
    return out.result("loss-share", lambda: loss_share(trained, samples, device=options.torch_device()))


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
