"""Augmentation by name, for batches in memory (`batchwise`) and for images from files (`samplewise`).

none        nothing (files: resized, centre crop)
flip        left-right
flip-crop   left-right, and moved by up to 4 pixels of 32: CIFAR's
move        turned by up to 15 degrees, scaled and moved by up to 10 %, not flipped: for digits
imagenet    a random part of 8 to 100 %, resized, flipped (torchvision's RandomResizedCrop)
half-crop   the same of 50 to 100 %, as DHO has it
rand-m7     imagenet, then RandAugment (two operations, magnitude 7) and random erasing, through timm
rand-m9     the same with magnitude 9
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from kdfast.recipes.common.digits import Augment
from kdfast.recipes.common.errors import UserError

KINDS = ("auto", "none", "flip", "flip-crop", "move", "imagenet", "half-crop", "rand-m7", "rand-m9")
FILES = KINDS[5:]  # one image at a time only
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class Flip(nn.Module):
    """Each image of [B, C, H, W] left-right, or not."""

    def forward(self, images: Tensor) -> Tensor:
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return torch.where(chosen, images.flip(3), images)


class Crop(nn.Module):
    """Each image of [B, C, H, W] moved by up to an eighth of its side; `fill` [C] comes in."""

    def __init__(self, fill: Tensor) -> None:
        super().__init__()
        self.register_buffer("fill", fill.view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        reach = height // 8
        offsets = torch.randint(-reach, reach + 1, (2, count, 1, 1), device=images.device)
        rows = offsets[0] + torch.arange(height, device=images.device).view(1, -1, 1)
        columns = offsets[1] + torch.arange(width, device=images.device)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # [B, H, W]
        batch = torch.arange(count, device=images.device).view(-1, 1, 1)
        moved = images.transpose(0, 1)[:, batch, rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
        return torch.where(inside.unsqueeze(1), moved.transpose(0, 1), self.fill)


def batchwise(kind: str, black: Tensor) -> nn.Module | None:
    """The augmentation of batches [B, C, S, S] on their device; None for "none".

    black: the value [C] of a black pixel, which comes in at the edges.
    """
    if kind in FILES:
        raise UserError(
            f"--augment {kind} is for images from files; none, flip, flip-crop, move are for others"
        )
    made = {
        "none": lambda: None,
        "flip": Flip,
        "flip-crop": lambda: nn.Sequential(Crop(black), Flip()),
        "move": partial(Augment, padding="border"),
    }
    return made[kind]()


def statistics(channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """ImageNet's mean and standard deviation; of grey images: their means over colour."""
    return (MEAN, STD) if channels == 3 else ((0.449,), (0.226,))


def samplewise(kind: str, size: int, channels: int) -> Callable[[Any], Tensor]:
    """PIL image -> normalised float32 [channels, size, size]."""
    mean, std = statistics(channels)
    if kind.startswith("rand-"):
        return _strong(kind, size, channels)
    whole = [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
    steps = {
        "none": whole,
        "flip": [*whole, v2.RandomHorizontalFlip()],
        "flip-crop": [
            v2.Resize((size, size)),
            v2.RandomCrop(size, padding=size // 8),
            v2.RandomHorizontalFlip(),
        ],
        "move": [*whole, v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1))],
        "imagenet": [v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()],
        "half-crop": [v2.RandomResizedCrop(size, (0.5, 1.0), antialias=True), v2.RandomHorizontalFlip()],
    }[kind]
    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return v2.Compose([*steps, *finish])


def _strong(kind: str, size: int, channels: int) -> Callable[[Any], Tensor]:
    """timm's training transform with RandAugment of `kind` and random erasing in a quarter of the images."""
    from timm.data import create_transform

    if channels != 3:
        raise UserError(f"--augment {kind} changes colours; --channels 3 is needed, got {channels}")
    return create_transform(
        size, is_training=True, color_jitter=None, auto_augment=f"{kind}-mstd0.5-inc1", re_prob=0.25,
        re_mode="pixel", interpolation="bicubic", mean=MEAN, std=STD,
    )  # fmt: skip
