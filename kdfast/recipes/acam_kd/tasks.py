"""Detection and segmentation behind one face: data, networks, Lightning modules, scores, pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import kdfast
from kdfast.recipes.acam_kd.method import ACAMDistiller, ACAMTerm
from kdfast.recipes.acam_kd.options import Options
from kdfast.recipes.common.classify import Optimize, adamw_one_cycle
from kdfast.recipes.common.dense import detectors, pictures
from kdfast.recipes.common.dense.detection import detection_data
from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.inherit import Inherited, inherit
from kdfast.recipes.common.dense.lightning import Detection, Segmentation, pixel_loss, sum_of
from kdfast.recipes.common.dense.metrics import evaluate_detector, evaluate_segmenter
from kdfast.recipes.common.dense.schedules import sgd_polynomial, sgd_steps
from kdfast.recipes.common.dense.segmentation import segmentation_data
from kdfast.recipes.common.dense.segmenters import segmenter
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.loaders import EpochData

SMALL_SETS = ("bccd",)  # kept in memory


class Detecting:
    """`--task det`: the levels of the feature pyramid are distilled."""

    metric, logged, collate = "AP", "val_AP", staticmethod(collate)
    shown = ("AP", "AP50", "AP75", "AP_s", "AP_m", "AP_l")

    def __init__(self, options: Options) -> None:
        self.options = options
        first = [detectors.first_level(kind) for kind in (options.model, options.student_model)]
        if first[0] != first[1]:
            raise UserError(
                f"--model {options.model} cannot teach --student-model {options.student_model}: their finest "
                f"levels have strides {first[0]} and {first[1]}, equal levels are needed"
            )
        self.data = detection_data(
            options.data, options.data_root, short_side=options.short_side, long_side=options.long_side,
            classes=tuple(options.classes), skip_bad=options.skip_bad, cache=options.data in SMALL_SETS,
        )  # fmt: skip

    def network(self, role: str) -> nn.Module:
        """A new teacher or student."""
        o, weights = self.options, _weights(self.options, role)
        kind = o.student_model if role == "student" else o.model
        return detectors.detector(
            kind, getattr(o, role), len(self.data.classes), short_side=o.short_side, long_side=o.long_side,
            fpn_channels=o.width, extra_levels=o.extra_levels == "yes", anchor_scale=o.anchor_scale,
            weights=weights, frozen_norm=weights is not None and o.data not in SMALL_SETS,
            head_norm=o.head_norm == "yes",
        )  # fmt: skip

    def inherit(self, student: nn.Module, teacher: nn.Module) -> Inherited:
        """Neck and head; the neck alone where the detectors differ."""
        same = type(student) is type(teacher)
        return inherit(student, teacher, detectors.parts(student) if same else ["backbone.fpn"])

    def distiller(self, student: nn.Module, teacher: nn.Module) -> kdfast.Distiller:
        """The student's losses and ACAM-KD over the levels of both necks."""
        with torch.no_grad():
            levels = list(detectors.Neck(student.eval())([self.data.validation[0][0]]))
        student.train()
        width = [self.options.width] * len(levels)
        loss = ACAMTerm(acam(self.options, width, width, levels, 6))
        padding = self.options.ignore_padding
        term = kdfast.Term(loss, student="backbone", teacher="backbone", name="acam", target=padding)
        return kdfast.Distiller(student, detectors.Neck(teacher), terms=[term], task_loss=sum_of)

    def module(self, network: nn.Module, optimize: Optimize, **options: Any) -> Detection:
        return Detection(network, optimize, **options)

    def scores(self, network: nn.Module) -> dict[str, float]:
        """On the test images."""
        return evaluate_detector(network, self.data.test, self.data.classes)

    def features(self, network: nn.Module, image: Tensor) -> dict[str, Tensor]:
        """The levels of one image, as they are distilled."""
        return detectors.Neck(network)([image])

    def drawn(self, network: nn.Module, image: Tensor) -> np.ndarray:
        return pictures.boxes_over(image, detectors.detect(network, [image])[0], self.data.classes)

    def wanted(self, image: Tensor, target: dict[str, Tensor]) -> np.ndarray:
        return pictures.boxes_over(image, target, self.data.classes)

    def example(self, image: Tensor) -> Any:
        """One image, as a network in evaluation takes it."""
        return [image]

    def batch(self, count: int) -> tuple[tuple, Any]:
        """The Distiller's inputs and target, of the first training images."""
        images, targets = collate([self.data.train[i] for i in range(min(count, len(self.data.train)))])
        return (images, targets), targets


class Segmenting:
    """`--task seg`: the logit map before it is resized is distilled."""

    metric, logged, collate = "mIoU", "val_mIoU", None
    shown = ("mIoU",)

    def __init__(self, options: Options) -> None:
        self.options = options
        crop = (options.short_side, options.long_side)
        small = options.data == "brain"
        self.data = segmentation_data(
            options.data, options.data_root, crop=crop, size=crop if small else None,
            scales=(0.8, 1.25) if small else (0.5, 2.0), skip_bad=options.skip_bad,
        )  # fmt: skip

    def network(self, role: str) -> nn.Module:
        """A new teacher or student."""
        o, weights = self.options, _weights(self.options, role)
        kind = o.student_model if role == "student" else o.model
        return segmenter(
            kind, getattr(o, role), len(self.data.classes), output_stride=o.output_stride, width=o.width,
            auxiliary=o.auxiliary, weights=weights,
        )  # fmt: skip

    def inherit(self, student: nn.Module, teacher: nn.Module) -> Inherited:
        """What fits of the head."""
        return inherit(student, teacher, ["classifier"])

    def distiller(self, student: nn.Module, teacher: nn.Module) -> kdfast.Distiller:
        """Cross-entropy and ACAM-KD between both logit maps."""
        count = len(self.data.classes)
        loss = ACAMTerm(acam(self.options, [count], [count], None, count))
        term = kdfast.Term(loss, student="classifier", teacher="classifier", name="acam")
        return kdfast.Distiller(student, teacher, terms=[term], task_loss=pixel_loss)

    def module(self, network: nn.Module, optimize: Optimize, **options: Any) -> Segmentation:
        return Segmentation(network, optimize, classes=len(self.data.classes), **options)

    def scores(self, network: nn.Module) -> dict[str, float]:
        """On the test images."""
        return evaluate_segmenter(network, self.data.test, self.data.classes)

    def features(self, network: nn.Module, image: Tensor) -> Tensor:
        """The logit map of one image, as it is distilled."""
        features = network.backbone((image[None] - network.mean) / network.std)["out"]
        return network.classifier(features)

    @torch.no_grad()
    def drawn(self, network: nn.Module, image: Tensor) -> np.ndarray:
        return pictures.labels_over(
            image, network.eval()(image[None])["out"].argmax(1)[0], len(self.data.classes)
        )

    def wanted(self, image: Tensor, target: Tensor) -> np.ndarray:
        return pictures.labels_over(image, target, len(self.data.classes))

    def example(self, image: Tensor) -> Any:
        """One image, as a network in evaluation takes it."""
        return image[None]

    def batch(self, count: int) -> tuple[tuple, Any]:
        """The Distiller's inputs and target, of the first training images."""
        rows = [self.data.train[i] for i in range(min(count, len(self.data.train)))]
        images, labels = (torch.stack(part) for part in zip(*rows, strict=True))
        return (images,), labels


Task = Detecting | Segmenting


def task_of(options: Options) -> Task:
    """The task's data, read and checked."""
    return Detecting(options) if options.task == "det" else Segmenting(options)


def acam(
    options: Options, channels: list[int], student_channels: list[int], levels: list[str] | None, masks: int
) -> ACAMDistiller:
    """The method's module by the options; `masks` is M where they leave it open."""
    return ACAMDistiller(
        channels, student_channels, levels=levels, num_masks=options.num_masks or masks, alpha=options.alpha,
        lambda_div=options.lambda_div, shared=options.shared, div=options.div, div_masks=options.div_masks,
        losses=options.losses, mask_norm=options.mask_norm, normalizer=options.normalizer, eps=options.eps,
        align_init=options.align_init,
        kv_pool=options.kv_pool, detach_masks=options.detach_masks,
        detach_student_in_attention=options.detach_student_in_attention == "yes",
    )  # fmt: skip


def optimizer(options: Options, role: str) -> Optimize:
    """By --optimizer, with the task's schedule."""
    lr = options.teacher_lr if role == "teacher" else options.lr
    if options.optimizer == "adamw":
        return adamw_one_cycle(lr, options.weight_decay)
    schedule: Callable[..., Optimize] = sgd_steps if options.task == "det" else sgd_polynomial
    return schedule(lr, weight_decay=options.weight_decay)


def loaders(task: Task, options: Options) -> EpochData:
    """Training and validation images. A last, smaller batch is left out: one image has no statistics."""
    data = task.data
    return EpochData(
        data.train, data.validation, batch_size=options.batch_size, workers=options.workers,
        collate=task.collate, drop_last=len(data.train) > options.batch_size,
    )  # fmt: skip


def _weights(options: Options, role: str) -> str | None:
    given = options.teacher_weights if role == "teacher" else options.student_weights
    return None if given == "none" else given
