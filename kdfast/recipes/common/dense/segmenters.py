"""Segmenters: DeepLabV3, PSPNet and FCN heads over a dilated backbone."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from kdfast.recipes.common.dense.backbones import dilate, trunk

Kind = Literal["deeplabv3", "pspnet", "fcn"]
KINDS = ("deeplabv3", "pspnet", "fcn")
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # of ASPP, by output stride (Chen et al., 2017)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Segmenter(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> {"out": logits [B, classes, H, W]}; in training maybe "aux" too.

    The logits before they are resized to the image, at the output stride, are the output of `classifier`.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, auxiliary: nn.Module | None) -> None:
        super().__init__()
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, auxiliary
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone((images - self.mean) / self.std)
        output = {"out": self._full(self.classifier(features["out"]), images)}
        if self.aux_classifier is not None and self.training:
            output["aux"] = self._full(self.aux_classifier(features["aux"]), images)
        return output

    @staticmethod
    def _full(logits: Tensor, images: Tensor) -> Tensor:
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)


def segmenter(
    kind: Kind,
    backbone: str,
    classes: int,
    *,
    output_stride: int = 8,
    width: int = 256,
    auxiliary: bool = False,
    weights: str | None = None,
    frozen_norm: bool = False,
) -> Segmenter:
    """A segmenter with torchvision's module names: backbone, classifier, aux_classifier.

    Args:
        classes: with the background, if it is one.
        output_stride: image side over side of the logit map: 8, 16 or 32.
        width: channels of the head (DeepLabV3's and PSPNet's branches).
        auxiliary: a second, FCN head on the stage before the last, in training.
        weights, frozen_norm: of the backbone; see backbones.trunk.
    """
    if kind not in KINDS:
        raise ValueError(f"segmenter {kind!r}: one of {', '.join(KINDS)} is needed")
    if output_stride not in RATES:
        raise ValueError(f"output_stride {output_stride}: one of {', '.join(map(str, RATES))} is needed")
    base = trunk(backbone, weights=weights, frozen_norm=frozen_norm)
    dilate(base.body, base.stages, output_stride)
    layers = {base.stages[3]: "out"} | ({base.stages[2]: "aux"} if auxiliary else {})
    body = IntermediateLayerGetter(base.body, layers)
    head = _head(kind, base.channels[3], classes, output_stride, width)
    return Segmenter(body, head, FCNHead(base.channels[2], classes) if auxiliary else None)


def _head(kind: Kind, channels: int, classes: int, output_stride: int, width: int) -> nn.Module:
    if kind == "fcn":
        return FCNHead(channels, classes)
    if kind == "deeplabv3":
        context: nn.Module = ASPP(channels, RATES[output_stride], width)
    else:
        context = PyramidPooling(channels)
        channels += 4 * (channels // 4)
    inputs = width if kind == "deeplabv3" else channels
    return nn.Sequential(context, *_convolution(inputs, width, 3), nn.Conv2d(width, classes, 1))


class PyramidPooling(nn.Module):
    """PSPNet's context (Zhao et al., 2017): means over 1, 4, 9 and 36 windows beside the features.

    [B, C, H, W] -> [B, C + 4 (C // 4), H, W].
    """

    BINS = (1, 2, 3, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        own = channels // len(self.BINS)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *_convolution(channels, own, 1, norm=bins > 1))
            for bins in self.BINS
        )

    def forward(self, features: Tensor) -> Tensor:
        size = features.shape[2:]
        means = [F.interpolate(branch(features), size=size, mode="bilinear") for branch in self.branches]
        return torch.cat([features, *means], 1)


def _convolution(inputs: int, outputs: int, side: int, *, norm: bool = True) -> list[nn.Module]:
    """norm=False: for a 1 x 1 map, whose batch statistics need more than one image."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=not norm)]
    return [*layers, *([nn.BatchNorm2d(outputs)] if norm else []), nn.ReLU()]
