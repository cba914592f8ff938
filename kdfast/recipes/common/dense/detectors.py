"""torchvision's detectors over any backbone with a feature pyramid."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from kdfast.recipes.common.dense.backbones import trunk

Kind = Literal["retinanet", "faster_rcnn", "fcos", "mask_rcnn"]
KINDS = ("retinanet", "faster_rcnn", "fcos", "mask_rcnn")
ONE_STAGE = ("retinanet", "fcos")
GROUPS = 32  # of torchvision's group normalisation


def detector(
    kind: Kind,
    backbone: str,
    classes: int,
    *,
    short_side: int,
    long_side: int,
    fpn_channels: int = 256,
    extra_levels: bool = True,
    anchor_scale: float = 1.0,
    weights: str | None = None,
    frozen_norm: bool = False,
    head_norm: bool = False,
    **options: Any,
) -> nn.Module:
    """A detector with a feature pyramid, in torchvision's form.

    In training: (images, targets) -> dict of losses; in evaluation: images -> list of dicts of boxes [n, 4],
    labels [n] in 1 ... classes, scores [n] (and masks). Its submodules: transform, backbone (body, fpn) with
    the levels as its output, and head, or rpn and roi_heads.

    Args:
        classes: number of classes without the background.
        short_side, long_side: size of the images it will be given; see DetectionSet.
        fpn_channels: of each level.
        extra_levels: P6 and P7 (one-stage detectors) or the pooled P6 (two-stage ones); small images need
            none.
        anchor_scale: of the side of the anchors, 1 for 4 (one-stage) or 8 times the level's stride.
        weights, frozen_norm: see backbones.trunk.
        head_norm: RetinaNet with group normalisation in its head and GIoU for its boxes, torchvision's "v2":
            it trains in far fewer steps. FCOS has both anyway; the two-stage detectors do not heed it.
        options: further arguments of torchvision's class.

    Raises:
        ValueError: an unknown kind, or channels that its head cannot take.
    """
    if kind not in KINDS:
        raise ValueError(f"detector {kind!r}: one of {', '.join(KINDS)} is needed")
    if (kind == "fcos" or head_norm) and fpn_channels % GROUPS:
        raise ValueError(f"fpn_channels {fpn_channels}: a head with norms needs a multiple of {GROUPS}")
    neck = pyramid(kind, backbone, fpn_channels, extra_levels, weights, frozen_norm)
    strides = [first_level(kind) * 2**i for i in range(_levels(kind, extra_levels))]
    options = {"min_size": short_side, "max_size": long_side} | options
    if kind in ONE_STAGE:
        options = {"detections_per_img": 100} | options  # COCO counts no more
    if kind == "fcos":  # one square point an anchor; its side sets the range of sizes of the level
        points = AnchorGenerator(
            tuple((stride * anchor_scale,) for stride in strides), ((1.0,),) * len(strides)
        )
        return detection.FCOS(neck, classes + 1, anchor_generator=points, **options)
    if kind == "retinanet":
        octaves = [[4 * stride * anchor_scale * 2 ** (i / 3) for i in range(3)] for stride in strides]
        anchors = _anchors(octaves)
        if head_norm:
            count, norm = anchors.num_anchors_per_location()[0], partial(nn.GroupNorm, GROUPS)
            head = RetinaNetHead(fpn_channels, count, classes + 1, norm_layer=norm)
            head.regression_head._loss_type = "giou"
            options = {"head": head} | options
        return detection.RetinaNet(neck, classes + 1, anchor_generator=anchors, **options)
    options |= {"rpn_anchor_generator": _anchors([[8 * stride * anchor_scale] for stride in strides])}
    pooled = [str(i) for i in range(4)]
    options |= {"box_roi_pool": MultiScaleRoIAlign(pooled, output_size=7, sampling_ratio=2)}
    if kind == "mask_rcnn":
        options |= {"mask_roi_pool": MultiScaleRoIAlign(pooled, output_size=14, sampling_ratio=2)}
        return detection.MaskRCNN(neck, classes + 1, **options)
    return detection.FasterRCNN(neck, classes + 1, **options)


def first_level(kind: Kind) -> int:
    """The stride of the finest level."""
    return 8 if kind in ONE_STAGE else 4


def pyramid(
    kind: Kind, backbone: str, channels: int, extra_levels: bool, weights: str | None, frozen_norm: bool
) -> BackboneWithFPN:
    """The backbone with its feature pyramid; output: OrderedDict of levels, finest first."""
    base = trunk(backbone, weights=weights, frozen_norm=frozen_norm)
    begin = 1 if kind in ONE_STAGE else 0
    stages, widths = base.stages[begin:], base.channels[begin:]
    extra: nn.Module = _NoExtra()
    if extra_levels:
        extra = LastLevelP6P7(channels, channels) if kind in ONE_STAGE else LastLevelMaxPool()
    layers = {name: str(i) for i, name in enumerate(stages)}
    return BackboneWithFPN(base.body, layers, list(widths), channels, extra_blocks=extra)


class _NoExtra(LastLevelMaxPool):
    """BackboneWithFPN adds a pooled level where it is given nothing; this adds none."""

    def forward(self, x: list[Tensor], y: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        return x, names


def _levels(kind: Kind, extra_levels: bool) -> int:
    stages = 3 if kind in ONE_STAGE else 4
    return stages + ((2 if kind in ONE_STAGE else 1) if extra_levels else 0)


def _anchors(sizes: list[list[float]]) -> AnchorGenerator:
    return AnchorGenerator(tuple(map(tuple, sizes)), ((0.5, 1.0, 2.0),) * len(sizes))


class Neck(nn.Module):
    """A trained detector up to its neck: (images, targets) -> the levels. A teacher that runs no head.

    `transform` and `backbone` are the detector's own, so that paths into it stay as they are.
    """

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.transform, self.backbone = whole.transform, whole.backbone

    def forward(self, images: list[Tensor], targets: Any = None) -> dict[str, Tensor]:
        return self.backbone(self.transform(images)[0].tensors)


def check_levels(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> None:
    """Raises ValueError, naming the level, unless both have the same levels of the same height and width."""
    if list(student) != list(teacher):
        raise ValueError(
            f"the student has levels {list(student)}, the teacher {list(teacher)}; equal ones are needed"
        )
    for name in student:
        if student[name].shape[2:] != teacher[name].shape[2:]:
            sizes = [tuple(levels[name].shape[2:]) for levels in (student, teacher)]
            raise ValueError(f"level {name!r} is {sizes[0]} in the student and {sizes[1]} in the teacher")


def parts(network: nn.Module) -> list[str]:
    """The names of neck and head modules, for `inherit`."""
    heads = ("head",) if hasattr(network, "head") else ("rpn", "roi_heads")
    return ["backbone.fpn", *heads]


@torch.no_grad()
def detect(network: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Detections on the CPU; the network runs where it is, in evaluation mode."""
    device = next(network.parameters()).device
    found = network.eval()([image.to(device) for image in images])
    return [{key: value.cpu() for key, value in each.items()} for each in found]
