"""The options of `kdfast distill clock_distill`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.clock_distill.models import Architecture
from kdfast.recipes.common.options import RunOptions, require_positive


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill clock_distill`."""

    data: Literal["bccd", "coco", "voc", "kitti"] = "bccd"
    """layout of the data: blood cells, or a folder of yours with --data-root"""

    data_root: str | None = None
    """folder of the data set"""

    classes: tuple[str, ...] = ()
    """names of the classes to learn; all of the annotations' if none is given"""

    short_side: int = 96
    """images are resized to this shorter side; 800 for COCO"""

    long_side: int = 128
    """but no longer than this; 1333 for COCO"""

    architecture: Architecture = "rt_detr"
    """rt_detr stands in for DINO; dab_detr and deformable_detr need pretrained backbones"""

    teacher_backbone: str = "mobilenet_v2"
    """any of torchvision's ResNets and MobileNets"""

    student_backbone: str = "mobilenet_v2_0.35"
    """the same for the students"""

    teacher_weights: str | None = "imagenet"
    """of the backbone: imagenet (mobilenet_v2 only), a file of torchvision's, or none"""

    student_weights: str | None = None
    """the same for the students"""

    dim: int = 64
    """width of both transformers; 256 in the paper"""

    encoder_layers: int = 1
    """of both; 6 in DAB- and Deformable-DETR"""

    decoder_layers: int = 3
    """of both; 6 in the paper"""

    queries: int = 40
    """object queries; 300 in the paper's detectors"""

    denoising: int = 40
    """denoising queries of rt_detr, about; 100 in its paper"""

    alpha: float = 5e-5
    """weight of the memory's foreground in LCMD"""

    beta: float = 1e-7
    """weight of its background"""

    channels: Literal["sum", "mean"] = "sum"
    """how LCMD joins the features of a token"""

    fgd_compat: bool = False
    """rasterise boxes as FGD's code does"""

    memory_weight: float = 20.0
    """of LCMD; 1 in the paper, whose memories have four times the tokens and the width"""

    logit_weight: float = 0.1
    """of TCLD; 1 in the paper"""

    temperature: float = 10.0
    """T of TCLD's classes"""

    class_loss: Literal["kl", "bce"] = "kl"
    """form of TCLD's classes"""

    copies: int = 3
    """copies of the target-aware queries"""

    content: Literal["auto", "random", "teacher"] = "auto"
    """class embedding of the target-aware queries: constant random vectors, or the one of the teacher's
    denoising queries; auto: the teacher's where it has one (rt_detr)"""

    inherit: bool = True
    """every student, alone or distilled, starts from the teacher's transformer and heads"""

    teacher_epochs: int = 12
    """passes of the teacher over the training images"""

    epochs: int = 5
    """passes of each student"""

    batch_size: int = 4
    """images a step, for each device"""

    lr: float = 1e-3
    """learning rate of the transformers (AdamW); 1e-4 with the paper's sizes"""

    backbone_lr: float = 1e-3
    """of the students' backbones; 1e-5 in the paper, from pretrained weights"""

    teacher_backbone_lr: float = 1e-4
    """of the teacher's backbone"""

    weight_decay: float = 1e-4
    """of AdamW"""

    cache: bool = True
    """keep the resized images in memory"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(short_side=self.short_side, long_side=self.long_side, dim=self.dim, lr=self.lr)
        require_positive(encoder_layers=self.encoder_layers, decoder_layers=self.decoder_layers)
        require_positive(queries=self.queries, temperature=self.temperature, copies=self.copies)
        require_positive(teacher_epochs=self.teacher_epochs, epochs=self.epochs, batch_size=self.batch_size)
        for name in ("alpha", "beta", "memory_weight", "logit_weight", "backbone_lr", "weight_decay"):
            if not getattr(self, name) >= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"option --{flag}: 0 or more is needed, got {getattr(self, name)}")
        if self.dim % 32:
            raise ValueError(f"option --dim: a multiple of 32 is needed (8 heads, 32 groups), got {self.dim}")
        if self.content == "teacher" and self.architecture != "rt_detr":
            raise ValueError("option --content: 'teacher' needs the denoising embedding of rt_detr")
        if self.data != "bccd" and self.data_root is None:
            raise ValueError(f"option --data-root: the folder of the {self.data} data is needed")

    def prepare(self) -> None:
        """Settle `content`."""
        if self.content == "auto":
            self.content = "teacher" if self.architecture == "rt_detr" else "random"
