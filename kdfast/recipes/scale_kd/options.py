"""The options of `kdfast distill scale_kd`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.common.image_options import ImageOptions


@dataclass(kw_only=True)
class Options(ImageOptions):
    """Options of `kdfast distill scale_kd`. The loss's defaults are the paper's; data and networks are those
    of the demonstration: a teacher trained on all images, students that get a twentieth of them.
    """

    data: str = "digits"
    """mnist, digits, animals, elpv or stamps (built in), or a folder: CIFAR's python files, CLASS/*.jpg, or
    train/ and val/ (ImageNet)"""

    label_share: float = 0.05
    """share of the training images that the students get; the teacher has seen all, as one pretrained on
    larger data would have"""

    teacher: str = "swin_mini"
    """a Swin, Swin v2, ViT, DeiT or BEiT: timm's name, swin_mini or vit_mini (small images), NAME@WEIGHTS"""

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

    task: Literal["cross-entropy", "bce"] = "cross-entropy"
    """the labels' term; bce: binary cross-entropy of every class, as in the paper's advanced setting; for
    students alone too"""

    label_smoothing: float = 0.0
    """of the labels' term, for students alone too; the paper's 0.1 for ViT and MobileNet students"""

    teacher_train_mode: bool = False
    """run the teacher with its stochastic depth while training, as the published code did"""

    teacher_lr: float = 0.001
    """the teacher's learning rate; small transformers learn less at the 0.003 of the students"""

    teacher_epochs: int = 60
    """passes of the teacher over the training images; 0 takes its weights (NAME@WEIGHTS) as they are"""

    epochs: int = 60
    """passes of each student over its images"""

    batch_size: int = 32
    """images a step, for each device"""

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
        if self.task == "bce" and self.label_smoothing:
            raise ValueError("option --label-smoothing: only for --task cross-entropy")
        if self.student_taps and len(self.taps()) != 2:
            raise ValueError(f"option --student-taps: PATH,PATH is needed, got {self.student_taps}")
        if self.teacher_train_mode and self.teacher_cache:
            raise ValueError(
                "option --teacher-cache: a teacher in training mode has no fixed outputs to keep"
            )

    def taps(self) -> list[str]:
        """The two paths; empty if they are to be found."""
        return self.student_taps.split(",") if self.student_taps else []
