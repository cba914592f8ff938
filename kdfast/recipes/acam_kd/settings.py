"""What an option left open means for each kind of data.

Large data sets: the paper's numbers. The two sets that are at hand: small networks and images, a short
schedule; these were chosen on validation images.
"""

from __future__ import annotations

from typing import Any

AUTO = "auto"
DET = {
    "model": "retinanet", "teacher": "resnet101", "student": "resnet50", "teacher_weights": "none",
    "short_side": 800, "long_side": 1333, "width": 256, "anchor_scale": 1.0, "extra_levels": "yes",
    "head_norm": "no", "output_stride": 8, "epochs": 24, "teacher_epochs": 24, "batch_size": 2,
    "optimizer": "sgd", "lr": 0.01, "weight_decay": 1e-4, "inherit": "yes", "num_masks": 6,
    "align_init": "random", "mask_norm": "l1", "detach_student_in_attention": "no",
}  # fmt: skip
SEG = DET | {
    "model": "deeplabv3", "student": "resnet18", "short_side": 512, "long_side": 1024, "epochs": 215,
    "teacher_epochs": 215, "batch_size": 16, "lr": 0.02, "weight_decay": 5e-4, "inherit": "no",
    "num_masks": 0, "align_init": "identity",
}  # fmt: skip
SMALL = {
    "teacher": "mobilenet_v2", "student": "mobilenet_v2_0.25", "teacher_weights": "imagenet",
    "optimizer": "adamw", "epochs": 12, "teacher_epochs": 12,
}  # fmt: skip
CELLS = DET | SMALL | {
    "short_side": 120, "long_side": 160, "width": 32, "anchor_scale": 0.5, "extra_levels": "no",
    "head_norm": "yes", "batch_size": 4, "lr": 0.002, "epochs": 6,
    "teacher_epochs": 14,
}  # fmt: skip
BRAIN = SEG | SMALL | {
    "short_side": 128, "long_side": 128, "width": 64, "batch_size": 4, "lr": 0.003, "epochs": 24,
    "teacher_epochs": 24, "mask_norm": "l2", "detach_student_in_attention": "yes",
}  # fmt: skip
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "det": {"bccd": CELLS, "coco": DET, "voc": DET, "kitti": DET},
    "seg": {"brain": BRAIN, "cityscapes": SEG, "voc": SEG, "folder": SEG},
}
OPEN: dict[str, Any] = {  # the defaults that say: as the table above has it
    "model": AUTO, "teacher": AUTO, "student": AUTO, "teacher_weights": AUTO, "inherit": AUTO,
    "align_init": AUTO, "mask_norm": AUTO, "detach_student_in_attention": AUTO,
    "optimizer": AUTO, "extra_levels": AUTO, "head_norm": AUTO, "short_side": 0, "long_side": 0, "width": 0,
    "output_stride": 0, "epochs": 0, "teacher_epochs": 0, "batch_size": 0, "num_masks": -1,
    "anchor_scale": 0.0, "lr": 0.0, "weight_decay": -1.0,
}  # fmt: skip
