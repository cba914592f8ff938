"""The published weights and schedules (arXiv 2305.17007, official code, commit fc6f3f9).

A preset is called DATA/STUDENT-TEACHER, as in cifar100/resnet20-resnet56; `weights` gives those of a method.
The official code has no DIST++ for ImageNet: there its CIFAR default is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kdfast.recipes.nd.methods import Weights


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Networks, the weights of each method, and the schedule."""

    student: str
    teacher: str
    kd: tuple[float, float]  # kd, nd
    dkd: tuple[float, float, float] = (1.0, 8.0, 1.0)  # alpha, beta, nd
    dist: tuple[float, float] = (1.0, 1.0)  # kd, nd
    reviewkd: tuple[float, float] = (1.0, 1.0)  # kd, nd
    schedule: dict[str, Any]

    def weights(self, method: str) -> Weights:
        """Of `method`, with or without ++."""
        base = method.removesuffix("++")
        common = Weights(temperature=self.schedule["temperature"], warmup=self.schedule["warmup"])
        if base == "dkd":
            alpha, beta, nd = self.dkd
            return replace(common, kd=1.0, nd=nd, alpha=alpha, beta=beta)
        kd, nd = getattr(self, base)
        return replace(common, kd=kd, nd=nd, temperature=4.0 if base == "dist" else common.temperature)


CIFAR = {
    "epochs": 240, "batch_size": 128, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4,
    "schedule": "steps", "milestones": (150 / 240, 180 / 240, 210 / 240), "augment": "flip-crop",
    "temperature": 4.0, "warmup": 20.0,
}  # fmt: skip
MOBILE = CIFAR | {"lr": 0.02}  # MobileNet and ShuffleNet students
IMAGENET = {
    "epochs": 100, "batch_size": 512, "optimizer": "sgd", "lr": 0.2, "weight_decay": 1e-4,
    "schedule": "steps",
    "milestones": (0.3, 0.6, 0.9), "augment": "imagenet", "temperature": 1.0, "warmup": 5.0,
}  # fmt: skip
DEIT = {
    "epochs": 300, "batch_size": 2048, "optimizer": "adamw", "lr": 1e-4 * 2048 / 256,
    "weight_decay": 0.3,
    "schedule": "cosine", "lr_warmup": 20.0, "augment": "imagenet", "temperature": 1.0, "warmup": 5.0,
}  # fmt: skip


def _cifar(student: str, teacher: str, schedule: dict[str, Any] = CIFAR, **weights: Any) -> Preset:
    return Preset(student=f"cifar_{student}", teacher=f"cifar_{teacher}", schedule=schedule, **weights)


def _imagenet(student: str, teacher: str, **weights: Any) -> Preset:
    return Preset(student=student, teacher=teacher, schedule=IMAGENET, **weights)


PRESETS: dict[str, Preset] = {
    "cifar100/resnet20-resnet56": _cifar(
        "resnet20", "resnet56", kd=(1.0, 2.0), dkd=(2.5, 4.0, 3.5), dist=(2.0, 1.0), reviewkd=(1.2, 1.0)
    ),
    "cifar100/resnet8x4-resnet32x4": _cifar(
        "resnet8x4", "resnet32x4", kd=(3.5, 2.0), dkd=(2.0, 8.0, 0.5), dist=(1.5, 4.0), reviewkd=(8.0, 1.0)
    ),
    "cifar100/wrn_40_1-wrn_40_2": _cifar(
        "wrn_40_1", "wrn_40_2", kd=(1.0, 1.5), dkd=(1.0, 6.0, 1.0), dist=(2.5, 3.0), reviewkd=(5.0, 4.0)
    ),
    "cifar100/mobilenet_v2-resnet50": _cifar(
        "mobilenet_v2", "resnet50", MOBILE, kd=(3.0, 0.5), dkd=(0.5, 8.0, 1.0), dist=(7.0, 1.0),
        reviewkd=(6.0, 2.0),
    ),
    "cifar100/shufflenet_v1-resnet32x4": _cifar(
        "shufflenet_v1", "resnet32x4", MOBILE, kd=(2.5, 1.5), dkd=(0.5, 8.0, 4.0), dist=(2.5, 3.0),
        reviewkd=(7.0, 1.0),
    ),
    "cifar100/shufflenet_v2-resnet32x4": _cifar(
        "shufflenet_v2", "resnet32x4", MOBILE, kd=(4.0, 0.5), dkd=(0.5, 6.0, 0.5), dist=(3.0, 4.0),
        reviewkd=(8.0, 1.5),
    ),
    "imagenet/resnet18-resnet34": _imagenet(
        "resnet18", "resnet34", kd=(2.5, 1.0), dkd=(0.8, 0.5, 1.0), reviewkd=(1.0, 3.0)
    ),
    "imagenet/resnet18-resnet50": _imagenet(
        "resnet18", "resnet50", kd=(4.0, 1.0), dkd=(0.6, 0.5, 2.0), reviewkd=(3.0, 2.0)
    ),
    "imagenet/resnet18-resnet101": _imagenet(
        "resnet18", "resnet101", kd=(3.5, 4.0), dkd=(0.8, 0.5, 1.0), reviewkd=(3.0, 1.0)
    ),
    "imagenet/resnet18-resnet152": _imagenet(
        "resnet18", "resnet152", kd=(4.0, 2.0), dkd=(1.0, 1.0, 1.0), reviewkd=(3.0, 1.0)
    ),
    "imagenet/mobilenet_v1-resnet50": _imagenet(
        "mobilenetv1_100", "resnet50", kd=(4.0, 1.0), dkd=(0.8, 1.0, 1.0), reviewkd=(8.0, 4.0)
    ),
    "imagenet/resnet18-vit_s": _imagenet(
        "resnet18", "vit_small_patch16_224", kd=(1.5, 1.0), dkd=(1.0, 1.0, 2.0)
    ),
    "imagenet/resnet18-vit_b": _imagenet(
        "resnet18", "vit_base_patch16_224", kd=(2.0, 1.0), dkd=(1.4, 0.5, 2.0)
    ),
    "imagenet/deit_b-regnety_160": Preset(
        student="deit_base_distilled_patch16_224", teacher="regnety_160", kd=(1.0, 1.5), schedule=DEIT
    ),
}  # fmt: skip

DETECTION = {  # backbone: (KD++ kd, nd), (ReviewKD++ kd, nd)
    "resnet18": ((1.0, 1.5), (1.2, 1.5)),
    "resnet50": ((1.0, 1.0), (1.4, 1.0)),
    "mobilenet_v2": ((1.0, 1.0), (2.2, 1.5)),
}
