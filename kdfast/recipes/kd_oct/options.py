"""Options of `kdfast distill kd_oct`, the published settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdfast.recipes.common.options import RunOptions, require_positive

NEH: dict[str, Any] = {
    "teacher": "convnextv2_large.fcmae_ft_in22k_in1k", "student": "efficientnet_b2", "pretrained": True,
    "image_size": 384, "folds": 5, "teacher_epochs": 150, "epochs": 100, "teacher_batch_size": 4,
    "teacher_accumulate": 4, "batch_size": 8, "accumulate": 2, "teacher_lr": 1e-4, "backbone_lr": 2e-5,
    "lr": 1e-3, "teacher_warmup": 10, "warmup": 5, "freeze": 5, "teacher_patience": 25, "patience": 20,
    "swa_start": 100, "swa_lr": 1e-5, "teacher_augment": "teacher", "augment": "student", "drop_rate": 0.3,
    "focal": "kdoct", "class_weights": "teacher",
}  # fmt: skip
UCSD = NEH | {"teacher_batch_size": 64, "teacher_accumulate": 1, "batch_size": 16, "accumulate": 2}
SYNTHETIC = NEH | {
    "teacher": "mobilenet_v2@imagenet", "student": "mobilenet_v2_trunk@imagenet", "pretrained": False,
    "image_size": 64, "folds": 3, "teacher_epochs": 10, "epochs": 8, "teacher_batch_size": 32,
    "teacher_accumulate": 1, "batch_size": 32, "accumulate": 1, "teacher_lr": 1e-3, "backbone_lr": 5e-4,
    "lr": 2e-3, "teacher_warmup": 1, "warmup": 1, "freeze": 0, "teacher_patience": 0, "patience": 0,
    "swa_start": 7, "swa_lr": 2e-4, "teacher_augment": "student", "drop_rate": 0.0,
}  # fmt: skip
# Most cells are normal and a mild one looks like them: under the published weights a cell that is normal with
# 80 % is called mild, and the teacher is right less often than one that calls every cell normal.
ELPV = SYNTHETIC | {"focal": "standard", "class_weights": "none"}


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill kd_oct`. Those without a value are the paper's for NEH or UCSD folders, and
    small ones for the demonstration sets.
    """

    data: str = "elpv"
    """elpv or synthetic (demonstrations), or a folder in the NEH, UCSD or OCTMNIST layout"""

    teacher: str | None = None
    """timm's or torchvision's name, or NAME@WEIGHTS"""

    student: str | None = None
    """the same"""

    pretrained: bool | None = None
    """begin with the weights that timm or torchvision download for the names"""

    image_size: int | None = None
    """side of the images"""

    folds: int | None = None
    """of the cross-validation, by patient"""

    first_folds: int = 0
    """run only so many of the folds; 0 for all"""

    split_seed: int = 43
    """of the folds, whatever --seed is"""

    teacher_run: str = ""
    """folder of an earlier run whose teachers are taken; its folds must be the same"""

    focal: Literal["kdoct", "standard"] | None = None
    """the teacher's loss: kdoct has the class weights inside the focus, as the official code"""

    class_weights: Literal["teacher", "both", "none"] | None = None
    """whose labels' loss has balanced class weights: the teacher's only, as published, also the students', or
    nobody's"""

    gamma: float = 2.0
    """of the focal loss"""

    ce_weight: float = 0.3
    """of the student's cross-entropy"""

    kl_weight: float = 0.7
    """of T^2 KL"""

    temperature: float = 4.0
    """T"""

    teacher_epochs: int | None = None
    """passes of the teacher"""

    epochs: int | None = None
    """passes of the students"""

    teacher_batch_size: int | None = None
    """images of the teacher's step, for each device"""

    teacher_accumulate: int | None = None
    """steps between the teacher's updates"""

    batch_size: int | None = None
    """images a step of the students"""

    accumulate: int | None = None
    """steps between the students' updates"""

    teacher_lr: float | None = None
    """of the teacher's classifier (AdamW, weight decay 0.05)"""

    backbone_lr: float | None = None
    """of the rest of the teacher"""

    lr: float | None = None
    """of the students (AdamW, weight decay 0.01)"""

    teacher_warmup: int | None = None
    """epochs over which the teacher's rate rises; then it falls like a cosine to a thousandth"""

    warmup: int | None = None
    """the students'"""

    freeze: int | None = None
    """epochs in which only the teacher's classifier learns"""

    teacher_patience: int | None = None
    """epochs without a smaller validation loss after which the teacher stops; 0 for never"""

    patience: int | None = None
    """epochs without a higher validation accuracy after which a student stops; 0 for never"""

    swa_start: int | None = None
    """epoch from which the teacher's weights are averaged; -1 for no average"""

    swa_lr: float | None = None
    """learning rate of the teacher's classifier while averaging; the backbone's falls alike"""

    teacher_augment: Literal["teacher", "student", "none"] | None = None
    """augmentation of the teacher's images; see kdfast.recipes.kd_oct.views"""

    augment: Literal["teacher", "student", "none"] | None = None
    """of the students'"""

    drop_rate: float | None = None
    """dropout before the classifiers, for timm's networks"""

    tta: bool = True
    """test the teacher on five views as well"""

    teacher_precision: Literal["same", "float32", "bfloat16", "float16"] = "same"
    """arithmetic of the frozen teacher; same: the student's"""

    teacher_cache: str = ""
    """folder in which the teacher's outputs are kept and found again; needs --augment none"""

    export: bool = True
    """write the student of the first fold as student.onnx and student.pt2"""

    def __post_init__(self) -> None:
        for name, value in self.defaults().items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        super().__post_init__()
        names = ("image_size", "epochs", "teacher_epochs", "batch_size", "accumulate", "teacher_batch_size",
                 "teacher_accumulate", "lr", "teacher_lr", "backbone_lr", "temperature")  # fmt: skip
        require_positive(**{name: getattr(self, name) for name in names})
        if self.teacher_cache and self.augment != "none":
            raise ValueError(
                f"option --teacher-cache: the teacher's outputs differ from epoch to epoch under --augment "
                f"{self.augment}; --augment none is needed"
            )
        if self.folds < 2:
            raise ValueError(f"option --folds: 2 or more are needed, got {self.folds}")
        for name in (
            "ce_weight",
            "kl_weight",
            "gamma",
            "first_folds",
            "warmup",
            "teacher_warmup",
            "drop_rate",
        ):
            if getattr(self, name) < 0:
                flag = name.replace("_", "-")
                raise ValueError(f"option --{flag}: 0 or more is needed, got {getattr(self, name)}")

    def defaults(self) -> dict[str, Any]:
        """Of the data: published or of the demonstrations."""
        if not Path(self.data).is_dir():
            return ELPV if self.data == "elpv" else SYNTHETIC
        return UCSD if (Path(self.data) / "test").is_dir() else NEH
