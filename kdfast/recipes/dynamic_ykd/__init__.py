"""Dynamic Y-KD: instance segmentation that learns classes step by step (arXiv 2303.06015).

A Mask R-CNN learns the classes of a first step, then those of every later step from images in which only the
new classes are annotated. Its one head is distilled from the head of the step before, on the same features
and the same proposals; the extractor modules of all steps are kept and used together.

network.py has the parts, step.py a training step, inference.py the merged inference, grow.py what happens to
the head between steps.
"""

from kdfast.recipes.dynamic_ykd.data import ClassesOnly
from kdfast.recipes.dynamic_ykd.grow import average_heads, grown
from kdfast.recipes.dynamic_ykd.inference import MergedMaskRCNN, select
from kdfast.recipes.dynamic_ykd.losses import class_distillation, distillation, region_losses
from kdfast.recipes.dynamic_ykd.network import ContinualMaskRCNN, Extractor, Head, Proposals, RoIOutputs
from kdfast.recipes.dynamic_ykd.options import Options
from kdfast.recipes.dynamic_ykd.recipe import run
from kdfast.recipes.dynamic_ykd.scenario import Step, steps
from kdfast.recipes.dynamic_ykd.step import ContinualStep, rpn_losses, sample

__all__ = [
    "ClassesOnly",
    "ContinualMaskRCNN",
    "ContinualStep",
    "Extractor",
    "Head",
    "MergedMaskRCNN",
    "Options",
    "Proposals",
    "RoIOutputs",
    "Step",
    "average_heads",
    "class_distillation",
    "distillation",
    "grown",
    "region_losses",
    "rpn_losses",
    "run",
    "sample",
    "select",
    "steps",
]
