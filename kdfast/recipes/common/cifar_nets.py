"""The networks of CIFAR distillation papers that neither timm nor torchvision has.

    cifar_resnet8, 14, 20, 32, 44, 56, 110   He et al. 2016, section 4.2: 16, 32, 64 channels
    cifar_resnet8x4, 32x4                    the same with 64, 128, 256 (stem 32), as in Tian et al. 2020
    cifar_wrn_16_1, 16_2, 40_1, 40_2         Zagoruyko and Komodakis 2016
    cifar_resnet50                           torchvision's bottleneck network with a 3 x 3 stem, no pooling
    cifar_mobilenet_v2, cifar_shufflenet_v2  torchvision's, half the width and full, with early strides of 1
    cifar_shufflenet_v1                      Zhang et al. 2018: 3 groups, 240-480-960 channels

All take images [B, channels, H, W] of 32 x 32 or so and give logits [B, classes].
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN + shortcut, then ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = _conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv + shortcut (taken after the first ReLU where the width changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), _conv(inputs, outputs, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), _conv(outputs, outputs, 3)
        self.shortcut = _conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        inner = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return inner + (x if self.shortcut is None else self.shortcut(active))


class ShuffleBlock(nn.Module):
    """ShuffleNet v1: grouped 1 x 1, shuffle, depthwise 3 x 3, grouped 1 x 1; stride 2 concatenates."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        inner, last = outputs // 4, outputs - inputs if stride == 2 else outputs
        first = 1 if inputs == 24 else groups  # 24 channels are too few to group
        self.shuffled = first
        self.reduce = nn.Sequential(_conv(inputs, inner, 1, groups=first), nn.BatchNorm2d(inner), nn.ReLU())
        self.depthwise = nn.Sequential(_conv(inner, inner, 3, stride, groups=inner), nn.BatchNorm2d(inner))
        self.expand = nn.Sequential(_conv(inner, last, 1, groups=groups), nn.BatchNorm2d(last))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.channel_shuffle(self.reduce(x), self.shuffled)
        inner = self.expand(self.depthwise(inner))
        if self.stride == 2:
            return F.relu(torch.cat([inner, F.avg_pool2d(x, 3, 2, 1)], dim=1))
        return F.relu(inner + x)


class StagedNet(nn.Module):
    """Stem, three stages, norm, average over the map, linear classifier."""

    def __init__(self, stem: nn.Module, stages: list[nn.Module], norm: nn.Module, width: int, classes: int):
        super().__init__()
        self.stem = stem
        self.layer1, self.layer2, self.layer3 = stages
        self.norm = norm
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.norm(self.layer3(self.layer2(self.layer1(self.stem(images)))))))


def _stages(block: type[nn.Module], widths: list[int], depth: int, strides: tuple[int, ...], *more: int):
    """widths: of the stem and of each stage."""
    stages = []
    for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
        first = block(inputs, outputs, stride, *more)
        stages.append(nn.Sequential(first, *(block(outputs, outputs, 1, *more) for _ in range(depth - 1))))
    return stages


def _resnet(depth: int, widths: list[int], classes: int, channels: int) -> nn.Module:
    stem = nn.Sequential(_conv(channels, widths[0], 3), nn.BatchNorm2d(widths[0]), nn.ReLU())
    stages = _stages(BasicBlock, widths, (depth - 2) // 6, (1, 2, 2))
    return StagedNet(stem, stages, nn.Identity(), widths[-1], classes)


def _wide(depth: int, factor: int, classes: int, channels: int) -> nn.Module:
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    norm = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
    stages = _stages(WideBlock, widths, (depth - 4) // 6, (1, 2, 2))
    return StagedNet(_conv(channels, 16, 3), stages, norm, widths[-1], classes)


def _shufflenet_v1(classes: int, channels: int) -> nn.Module:
    stem = nn.Sequential(_conv(channels, 24, 1), nn.BatchNorm2d(24), nn.ReLU())
    widths, groups = [24, 240, 480, 960], 3
    stages = [
        nn.Sequential(
            ShuffleBlock(inputs, outputs, 2, groups),
            *(ShuffleBlock(outputs, outputs, 1, groups) for _ in range(count)),
        )
        for inputs, outputs, count in zip(widths, widths[1:], (3, 7, 3), strict=False)
    ]
    return StagedNet(stem, stages, nn.Identity(), widths[-1], classes)


def _resnet50(classes: int, channels: int) -> nn.Module:
    network = models.resnet50(num_classes=classes)
    network.conv1, network.maxpool = _conv(channels, 64, 3), nn.Identity()
    return network


def _mobilenet_v2(classes: int, channels: int) -> nn.Module:
    settings = [  # expansion, channels, repeats, stride: 1 in the second group, where ImageNet has 2
        [1, 16, 1, 1], [6, 24, 2, 1], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1], [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]  # fmt: skip
    network = models.mobilenet_v2(num_classes=classes, width_mult=0.5, inverted_residual_setting=settings)
    network.features[0][0] = _conv(channels, network.features[0][0].out_channels, 3, 2)
    return network


def _shufflenet_v2(classes: int, channels: int) -> nn.Module:
    network = models.shufflenet_v2_x1_0(num_classes=classes)
    network.conv1[0], network.maxpool = _conv(channels, 24, 1), nn.Identity()
    return network


_FIXED = {
    "cifar_resnet50": _resnet50,
    "cifar_mobilenet_v2": _mobilenet_v2,
    "cifar_shufflenet_v1": _shufflenet_v1,
    "cifar_shufflenet_v2": _shufflenet_v2,
}
NAMES = (
    *(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    "cifar_resnet8x4",
    "cifar_resnet32x4",
    *(f"cifar_wrn_{pair}" for pair in ("16_1", "16_2", "40_1", "40_2")),
    *_FIXED,
)


def create(name: str, *, classes: int, channels: int) -> nn.Module:
    """The network called `name`, one of NAMES."""
    if name in _FIXED:
        return _FIXED[name](classes, channels)
    if match := re.fullmatch(r"cifar_wrn_(\d+)_(\d+)", name):
        return _wide(int(match[1]), int(match[2]), classes, channels)
    match = re.fullmatch(r"cifar_resnet(\d+)(x4)?", name)
    widths = [32, 64, 128, 256] if match[2] else [16, 16, 32, 64]
    return _resnet(int(match[1]), widths, classes, channels)
