"""The options of `kdfast distill acam_kd`. What is left open is settled by settings.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdfast.recipes.acam_kd.settings import AUTO, OPEN, SETTINGS
from kdfast.recipes.common.dense import segmenters
from kdfast.recipes.common.options import RunOptions, require_positive


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill acam_kd`."""

    task: Literal["det", "seg"] = "det"
    """detection, or semantic segmentation"""

    data: str = AUTO
    """det: bccd, coco, voc, kitti; seg: brain, voc, cityscapes, folder; auto: bccd or brain"""

    data_root: str | None = None
    """the data set's folder; bccd and brain find their own"""

    classes: tuple[str, ...] = ()
    """detection: names of the classes to learn, in the order of their labels; by default all"""

    model: str = AUTO
    """det: retinanet, faster_rcnn, fcos; seg: deeplabv3, pspnet, fcn"""

    teacher: str = AUTO
    """the teacher's backbone: resnet10/18/34/50/101, resnext101_32x8d, mobilenet_v2, ..."""

    student: str = AUTO
    """the student's backbone"""

    student_model: str = ""
    """the student's detector or head if it is another than the teacher's"""

    teacher_weights: str = AUTO
    """start of the teacher's backbone: none, imagenet (mobilenet_v2), or the file of a state dict"""

    student_weights: str = "none"
    """the same for the student's"""

    teacher_checkpoint: str | None = None
    """weights of a whole trained teacher (teacher.safetensors of another run): it is not trained then"""

    num_masks: int = -1
    """M, selection units; -1: 6 for detection, the number of classes for segmentation (19 on Cityscapes)"""

    alpha: float = 1.0
    """weight of the masked imitation losses"""

    lambda_div: float = 1.0
    """weight of the masks' diversity loss"""

    div: Literal["ratio_of_sums", "pairwise_mean"] = "ratio_of_sums"
    """form of the diversity loss: as printed in the paper, or MasKD's"""

    div_masks: Literal["both", "spatial"] = "both"
    """which masks the diversity loss keeps apart"""

    losses: Literal["both", "spatial", "channel"] = "both"
    """which imitation losses there are"""

    mask_norm: Literal["auto", "l1", "l2"] = "auto"
    """denominator of the imitation losses: sum of M, or of M squared (experimental, against collapse; auto:
    l2 for brain, else l1)"""

    normalizer: Literal["acam", "maskd_seg"] = "acam"
    """acam, or MasKD's for segmentation: halved, eps beside the mask's sum"""

    eps: float = 1e-5
    """in the denominators"""

    align_init: Literal["auto", "random", "identity"] = "auto"
    """start of the student's 1 x 1 convolution; auto: random for features, identity for logits (seg)"""

    kv_pool: int = 1
    """max-pool keys and values by this factor; 1 attends to every position"""

    shared: Literal["none", "units", "all"] = "none"
    """between levels: nothing, the selection units, or the whole attention"""

    detach_masks: bool = False
    """the imitation losses do not train the masks"""

    detach_student_in_attention: Literal["auto", "yes", "no"] = "auto"
    """the student gets no gradient through the masks (auto: yes for brain, else no)"""

    ignore_padding: bool = False
    """det: leave the padding beside smaller images out of attention, masks and losses"""

    inherit: Literal["auto", "yes", "no"] = "auto"
    """the student starts from the teacher's neck and head (auto: in detection)"""

    inherited_baseline: bool = False
    """train also a student with the teacher's neck and head but without distillation"""

    epochs: int = 0
    """passes of each student over the training images; 0: the data set's (24 on COCO)"""

    teacher_epochs: int = 0
    """passes of the teacher; 0: the data set's"""

    batch_size: int = 0
    """images a step, for each device; 0: the data set's"""

    optimizer: Literal["auto", "sgd", "adamw"] = "auto"
    """sgd: the paper's, with its schedule; adamw: one cycle"""

    lr: float = 0.0
    """peak learning rate; 0: the data set's"""

    teacher_lr: float = 0.0
    """the teacher's; 0: the same"""

    weight_decay: float = -1.0
    """-1: the data set's"""

    short_side: int = 0
    """det: shorter side of the images; seg: height of the training crops; 0: the data set's"""

    long_side: int = 0
    """det: limit of the longer side; seg: width of the training crops; 0: the data set's"""

    width: int = 0
    """channels of the feature pyramid, or of the segmentation head; 0: the data set's"""

    output_stride: int = 0
    """seg: side of the images over side of the logit map, 8, 16 or 32; 0: 8"""

    anchor_scale: float = 0.0
    """det: factor of the anchors' sides; 0: the data set's"""

    extra_levels: Literal["auto", "yes", "no"] = "auto"
    """det: levels above the backbone's; auto: the data set's"""

    head_norm: Literal["auto", "yes", "no"] = "auto"
    """det: RetinaNet with group normalisation in the head trains in fewer steps; auto: the data set's"""

    auxiliary: bool = False
    """seg: an auxiliary head on the stage before the last, in training, with 0.4 of the weight"""

    threads: int = 1
    """CPU threads of each process"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        models = ("retinanet", "faster_rcnn", "fcos") if self.task == "det" else segmenters.KINDS
        for name, value, known in (
            ("data", self.data, tuple(SETTINGS[self.task])),
            ("model", self.model, models),
            ("student-model", self.student_model or AUTO, models),
        ):
            if value not in (AUTO, *known):
                names = ", ".join(known)
                raise ValueError(
                    f"option --{name}: with --task {self.task} one of {names} is needed, got {value}"
                )
        if self.classes and self.task == "seg":
            raise ValueError("option --classes: for --task det; segmentation learns every class")
        require_positive(kv_pool=self.kv_pool)
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"option --{flag}: 0 or more is needed, got {getattr(self, name)}")
        if self.output_stride not in (0, *segmenters.RATES):
            raise ValueError(f"option --output-stride: 8, 16 or 32 is needed, got {self.output_stride}")
        if self.num_masks < -1:
            raise ValueError(f"option --num-masks: 1 or more is needed, got {self.num_masks}")

    def prepare(self) -> None:
        """Settle what is left open by the data set's row of the settings; config.yaml holds the result."""
        if self.data == AUTO:
            self.data = next(iter(SETTINGS[self.task]))
        row = SETTINGS[self.task][self.data]
        given = self.teacher != AUTO
        for name, still_open in OPEN.items():
            if getattr(self, name) == still_open:
                setattr(self, name, row[name])
        if given and self.teacher_weights == "imagenet" and self.teacher != "mobilenet_v2":
            self.teacher_weights = "none"  # the row's weights are those of the row's teacher
        self.teacher_lr = self.teacher_lr or self.lr
        self.student_model = self.student_model or self.model


_NOT_NEGATIVE = (
    "alpha", "lambda_div", "eps", "epochs", "teacher_epochs", "batch_size", "lr", "teacher_lr", "short_side",
    "long_side", "width", "anchor_scale",
)  # fmt: skip
