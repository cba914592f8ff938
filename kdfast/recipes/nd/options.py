"""The options of `kdfast distill nd`: a preset's values, or the demonstration's, where nothing is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from kdfast.recipes.common.image_options import Augmentation, ImageOptions
from kdfast.recipes.nd.methods import METHODS, Weights
from kdfast.recipes.nd.presets import PRESETS

LIKE = "cifar100/resnet20-resnet56"  # the published pair whose weights the demonstration takes
DEMONSTRATION: dict[str, Any] = {
    "teacher": "cifar_resnet20", "student": "cifar_resnet8", "teacher_epochs": 8, "epochs": 60,
    "batch_size": 64, "optimizer": "adamw", "schedule": "one-cycle", "milestones": (0.625, 0.75, 0.875),
    "lr": 0.005, "teacher_lr": 0.005, "weight_decay": 0.01, "lr_warmup": 0.0, "augment": "auto",
    "label_share": 0.1,
}  # fmt: skip


@dataclass(kw_only=True)
class Options(ImageOptions):
    """Options of `kdfast distill nd`. Those without a value are the preset's, or the demonstration's."""

    preset: str = ""
    """networks, weights and schedule of a pair of the paper, such as cifar100/resnet20-resnet56"""

    method: str = "kd++,kd"
    """what to compare, with commas: kd, dkd, dist, reviewkd, kd++, dkd++, dist++, reviewkd++, deit++"""

    kd_weight: float | None = None
    """of the distillation term"""

    nd_weight: float | None = None
    """of the ND term"""

    alpha: float | None = None
    """DKD: of the target class's part"""

    beta: float | None = None
    """DKD: of the other classes' part"""

    temperature: float | None = None
    """T, softens the logits of both"""

    warmup: float | None = None
    """epochs over which the distillation term (not ND) rises; its weight is 0 in the first epoch"""

    smoothing: float = 0.1
    """deit++: label smoothing"""

    class_means: str = ""
    """file of the teacher's class means; computed before the students are trained if not given"""

    teacher: str | None = None
    """timm's or torchvision's name, cifar_..., NAME@WEIGHTS, or the student.safetensors of a run"""

    student: str | None = None
    """the same"""

    teacher_epochs: int | None = None
    """passes of the teacher over the training images; 0 takes its weights (NAME@WEIGHTS) as they are"""

    epochs: int | None = None
    """passes of each student over its images"""

    batch_size: int | None = None
    """images a step, for each device"""

    optimizer: Literal["adamw", "sgd", "lamb"] | None = None
    """adamw, SGD with Nesterov momentum 0.9, or LAMB"""

    schedule: Literal["one-cycle", "cosine", "steps", "constant"] | None = None
    """of the learning rate; steps: a tenth after each of --milestones"""

    milestones: tuple[float, ...] | None = None
    """shares of the epochs at which the schedule steps"""

    lr: float | None = None
    """learning rate of the students, the peak where it rises"""

    teacher_lr: float | None = None
    """the teacher's"""

    weight_decay: float | None = None
    """of the optimizer"""

    lr_warmup: float | None = None
    """epochs over which cosine and steps rise to the learning rate"""

    augment: Augmentation | None = None
    """of the training images: auto is imagenet for files, flip-crop for CIFAR and elpv, else move; rand-...
    for files: RandAugment with random erasing"""

    label_share: float | None = None
    """share of the training labels that the students get, drawn class by class by the student's seed"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        if self.preset and self.preset not in PRESETS:
            raise ValueError(f"option --preset: one of {', '.join(PRESETS)} is needed, got {self.preset}")
        self.fill()
        super().__post_init__()
        unknown = [name for name in self.methods() if name not in (*METHODS, "deit++")]
        if unknown or not self.methods():
            known = ", ".join((*METHODS, "deit++"))
            raise ValueError(f"option --method: names out of {known} are needed, got {self.method!r}")
        if "deit++" in self.methods() and (len(self.methods()) > 1 or self.teacher_cache):
            raise ValueError(
                "option --method: deit++ mixes its images; it runs alone and without --teacher-cache"
            )
        for name in ("kd_weight", "nd_weight", "alpha", "beta", "warmup"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"option --{name.replace('_', '-')}: 0 or more is needed, got {value}")
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"option --temperature: a number above 0 is needed, got {self.temperature}")

    def fill(self) -> None:
        """Give what was left open the preset's value; a published teacher is trained like its student."""
        values = dict(DEMONSTRATION)
        if self.preset:
            preset = PRESETS[self.preset]
            values |= {key: value for key, value in preset.schedule.items() if key in values}
            values |= {"student": preset.student, "teacher": preset.teacher, "label_share": 1.0}
            values |= {"teacher_epochs": values["epochs"], "teacher_lr": preset.schedule["lr"]}
        for name, value in values.items():
            if getattr(self, name) is None:
                setattr(self, name, value)

    def methods(self) -> list[str]:
        """The names in --method."""
        return [name.strip() for name in self.method.split(",") if name.strip()]

    def weights(self, method: str) -> Weights:
        """Of one method: what was given, else the preset's, else the demonstration's."""
        base = PRESETS[self.preset or LIKE].weights(method)
        base = base if self.preset else replace(base, warmup=5.0)  # of 60 epochs, not of 240
        names = {"kd": "kd_weight", "nd": "nd_weight"} | {
            name: name for name in ("alpha", "beta", "temperature", "warmup")
        }
        given = {key: getattr(self, option) for key, option in names.items()}
        return replace(base, **{key: value for key, value in given.items() if value is not None})
