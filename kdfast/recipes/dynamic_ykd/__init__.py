"""Dynamic Y-KD: instance segmentation that learns classes step by step (arXiv 2303.06015)."""

from kdfast.recipes.dynamic_ykd.grow import average_heads, grown
from kdfast.recipes.dynamic_ykd.inference import MergedMaskRCNN, select
from kdfast.recipes.dynamic_ykd.losses import class_distillation, distillation, region_losses
from kdfast.recipes.dynamic_ykd.network import ContinualMaskRCNN, Extractor, Head, Proposals, RoIOutputs
from kdfast.recipes.dynamic_ykd.scenario import Step, steps
from kdfast.recipes.dynamic_ykd.step import ContinualStep, rpn_losses, sample

__all__ = [
    "ContinualMaskRCNN",
    "ContinualStep",
    "Extractor",
    "Head",
    "MergedMaskRCNN",
    "Proposals",
    "RoIOutputs",
    "Step",
    "average_heads",
    "class_distillation",
    "distillation",
    "grown",
    "region_losses",
    "rpn_losses",
    "sample",
    "select",
    "steps",
]
