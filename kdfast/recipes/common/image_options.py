"""Options of every recipe that distils image classifiers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from kdfast.recipes.common.classify import Optimize
from kdfast.recipes.common.options import RunOptions, require_positive

Augmentation = Literal[
    "auto", "none", "flip", "flip-crop", "move", "imagenet", "half-crop", "rand-m7", "rand-m9"
]  # see augment
DTYPES = {"same": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True)
class ImageOptions(RunOptions):
    """Data, networks and training of image classifiers; a recipe sets its own defaults."""

    data: str = "mnist"
    """mnist, digits, animals, elpv or stamps (built in), or a folder: CIFAR's python files, CLASS/*.jpg, or
    train/ and val/ (ImageNet)"""

    label_share: float = 1.0
    """share of the training labels that the students get, drawn class by class by the student's seed"""

    validation_share: float = 0.1
    """share of the training images held out for validation where the data has no validation images"""

    image_size: int = 0
    """side of the images in pixels, 0 for the data's own (224 for files)"""

    channels: Literal[0, 1, 3] = 0
    """grey or colour, 0 for the data's own (3 for files)"""

    augment: Augmentation = "auto"
    """of the training images: auto is imagenet for files, flip-crop for CIFAR, elpv and stamps, else move;
    for files also DHO's half-crop, and RandAugment with random erasing, magnitude 7 or 9"""

    teacher: str = "cifar_resnet20"
    """timm's or torchvision's name, cifar_..., NAME@WEIGHTS, or the student.safetensors of a run"""

    student: str = "cifar_resnet8"
    """the same"""

    pretrained: bool = False
    """the teacher begins with the weights that timm or torchvision download for its name"""

    student_pretrained: bool = False
    """the students too"""

    teacher_epochs: int = 10
    """passes of the teacher over the training images; 0 takes its weights (NAME@WEIGHTS) as they are"""

    epochs: int = 20
    """passes of each student over its images"""

    batch_size: int = 64
    """images a step, for each device"""

    optimizer: Literal["adamw", "sgd", "lamb"] = "adamw"
    """adamw, SGD with Nesterov momentum 0.9, or LAMB"""

    clip_norm: float = 0.0
    """greatest norm of a step's gradient, 0 for any"""

    schedule: Literal["one-cycle", "cosine", "steps", "constant"] = "one-cycle"
    """of the learning rate; steps: a tenth after each of --milestones"""

    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    """shares of the epochs at which the schedule steps"""

    lr: float = 0.003
    """learning rate of the students, the peak where it rises"""

    teacher_lr: float = 0.003
    """the teacher's"""

    weight_decay: float = 0.01
    """of the optimizer"""

    lr_warmup: float = 0.0
    """epochs over which cosine and steps rise to the learning rate"""

    ema: float = 0.0
    """momentum of a moving average of the students' weights, with which they are validated and tested; 0 for
    none, 1e-4 in ScaleKD's settings for transformers"""

    sync_bn: bool = False
    """batch norm over the batches of all processes, which takes GPUs"""

    teacher_precision: Literal["same", "float32", "bfloat16", "float16"] = "same"
    """arithmetic of the frozen teacher; same: the student's"""

    teacher_cache: str = ""
    """folder in which the teacher's outputs are kept and found again; needs --augment none"""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "teacher_lr")}
        require_positive(**{name: value for name, value in given.items() if value is not None})
        if not 0 < self.label_share <= 1:
            raise ValueError(f"option --label-share: a share in (0, 1] is needed, got {self.label_share}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(
                f"option --validation-share: a share in [0, 1) is needed, got {self.validation_share}"
            )
        for name in ("teacher_epochs", "image_size", "weight_decay", "lr_warmup", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"option --{name.replace('_', '-')}: 0 or more is needed, got {value}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"option --ema: a number in [0, 1) is needed, got {self.ema}")
        if self.sync_bn and self.torch_device() == "cpu":
            raise ValueError("option --sync-bn: torch has batch norm over processes for GPUs only")
        if self.teacher_cache and self.augment != "none":
            raise ValueError(
                f"option --teacher-cache: the teacher's outputs differ from epoch to epoch under --augment "
                f"{self.augment}; --augment none is needed"
            )

    def trainer_options(self) -> dict[str, Any]:
        """For Lightning's Trainer."""
        return {"gradient_clip_val": self.clip_norm or None, "sync_batchnorm": self.sync_bn}

    def teacher_dtype(self) -> torch.dtype | None:
        """For Distiller's argument of that name."""
        return DTYPES[self.teacher_precision]

    def optimize(self, *, teacher: bool = False, epochs: int | None = None) -> Optimize:
        """The optimizer and its schedule, for Classifier."""
        lr = self.teacher_lr if teacher else self.lr
        epochs = epochs or (self.teacher_epochs if teacher else self.epochs)

        def made(parameters: list[nn.Parameter], steps: int) -> dict[str, Any]:
            if self.optimizer == "sgd":
                optimizer: torch.optim.Optimizer = torch.optim.SGD(
                    parameters, lr, momentum=0.9, nesterov=True, weight_decay=self.weight_decay
                )
            elif self.optimizer == "lamb":
                from timm.optim import Lamb

                optimizer = Lamb(parameters, lr, weight_decay=self.weight_decay)
            else:
                optimizer = torch.optim.AdamW(parameters, lr, weight_decay=self.weight_decay)
            if self.schedule == "one-cycle":
                rate: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
            else:
                factor = Factor(self.schedule, steps, self.lr_warmup * steps / epochs, tuple(self.milestones))
                rate = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

        return made


@dataclass(frozen=True)
class Factor:
    """Learning rate at a step as a share of the given one."""

    schedule: str
    steps: int
    warmup: float
    milestones: tuple[float, ...]

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.schedule == "cosine":
            done = (step - self.warmup) / max(1.0, self.steps - self.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        passed = sum(step >= share * self.steps for share in self.milestones)
        return 0.1**passed if self.schedule == "steps" else 1.0
