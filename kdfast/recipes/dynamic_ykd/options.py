"""The options of `kdfast distill dynamic_ykd`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.common.dense.detection import PLACES, WITH_MASKS
from kdfast.recipes.common.options import RunOptions, require_positive

# scenario -> weights of the distillation of classes (and boxes), and of masks: the authors' run names
WEIGHTS = {"15-1": (2.0, 2.0), "10-2": (1.0, 1.0), "10-5": (1.5, 1.0)}
OTHERWISE = (1.0, 1.0)


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill dynamic_ykd`."""

    scenario: str = "2-1"
    """classes at first and in each step: 19-1, 15-5, 15-1, 10-10, 10-5, 10-2, ..."""

    data: Literal["bccd", "brain", "coco", "voc", "kitti"] = "bccd"
    """blood cells, lobes of a brain (with masks), or the layout of a folder of yours with --data-root"""

    data_root: str | None = None
    """folder of the data set"""

    classes: tuple[str, ...] = ()
    """names of the classes in the order of learning; by default as the data set lists them"""

    masks: bool = False
    """segment instances too; the data must have masks (brain, coco)"""

    short_side: int = 120
    """images are resized to this shorter side; 800 in the paper"""

    long_side: int = 160
    """but no longer than this; 1333 in the paper"""

    backbone: str = "mobilenet_v2"
    """any of torchvision's ResNets and MobileNets; resnet50 in the paper"""

    weights: str | None = "imagenet"
    """of the backbone: imagenet (mobilenet_v2 only), a file of torchvision's, or none"""

    anchor_sizes: tuple[int, ...] = (12, 24, 48)
    """sides of the anchors in pixels of the resized image; 32 64 128 256 512 in the paper"""

    pool: int = 6
    """RoIAlign's grid, and the size of masks; 14 in the paper"""

    regions: int = 32
    """regions of an image that are trained on; 512 in the paper"""

    sampled: int = 16
    """proposals of an image that are distilled, of the best twice as many; 64 in the paper"""

    proposals: tuple[int, int] = (200, 100)
    """of an image, kept in training and in testing; 2000 1000 in the paper. With few, old classes crowd out
    new ones, since the distilled RPN goes on proposing what the last step found"""

    classes_weight: float | None = None
    """of the distillation of classes and boxes; by default the authors' for the scenario, else 1"""

    masks_weight: float | None = None
    """of the distillation of masks; by default the authors' for the scenario, else 1"""

    form: Literal["uce", "l2", "ce", "ce_ada", "ce_all"] = "uce"
    """of the distillation of classes"""

    unbiased: bool = True
    """background may be any old class in the cross-entropy (Y-KD only; fine-tuning is plain)"""

    init: Literal["fresh", "mib"] = "fresh"
    """rows of new classes: new, or background's"""

    rows: Literal["skip", "shared"] = "skip"
    """averaged heads: the predictors stay the new head's, or their old rows are averaged too"""

    averages: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5, 1.0)
    """weights of the old head on the trade-off curve"""

    joint: bool = False
    """also train on all classes at once, the bound of what steps can reach"""

    base_epochs: int = 10
    """passes of the first step, and of joint training, over its images"""

    epochs: int = 5
    """passes of each later step over its images"""

    batch_size: int = 4
    """images a step, for each device"""

    lr: float = 0.01
    """learning rate of the first step (SGD); 0.005 in the paper"""

    step_lr: float = 0.01
    """of the later steps; 0.001 in the paper"""

    weight_decay: float = 1e-4
    """of SGD"""

    cache: bool = True
    """keep the resized images in memory"""

    seeds: int = 3
    """how often the steps after the first are trained, with seeds SEED, SEED + 1, ..."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(short_side=self.short_side, long_side=self.long_side, pool=self.pool, lr=self.lr)
        require_positive(step_lr=self.step_lr, regions=self.regions, sampled=self.sampled)
        require_positive(
            batch_size=self.batch_size,
            base_epochs=self.base_epochs,
            epochs=self.epochs,
            proposals=min(self.proposals),
        )
        if not self.anchor_sizes or min(self.anchor_sizes) <= 0:
            raise ValueError(f"option --anchor-sizes: numbers above 0 are needed, got {self.anchor_sizes}")
        if not all(0 <= weight <= 1 for weight in self.averages):
            raise ValueError(f"option --averages: weights from 0 to 1 are needed, got {self.averages}")
        for name in ("classes_weight", "masks_weight"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"option --{flag}: 0 or more is needed, got {value}")
        if self.pool % 2 and self.masks:
            raise ValueError(f"option --pool: an even number is needed with masks, got {self.pool}")
        if self.masks and self.data not in WITH_MASKS:
            raise ValueError("option --masks: needs --data coco or brain, the other layouts have boxes only")
        if self.data not in PLACES and self.data_root is None:
            raise ValueError(f"option --data-root: the folder of the {self.data} data is needed")

    def prepare(self) -> None:
        """Settle the weights that were not given."""
        classes, masks = WEIGHTS.get(self.scenario, OTHERWISE)
        self.classes_weight = classes if self.classes_weight is None else self.classes_weight
        self.masks_weight = masks if self.masks_weight is None else self.masks_weight
