"""Annotated images, resized, with boxes (and masks) in torchvision's form of targets."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from kdfast.recipes.common.dense.annotations import Annotated
from kdfast.recipes.common.dense.coco import decode_mask

Sample = tuple[Tensor, dict[str, Tensor]]


class DetectionSet(Dataset):
    """Annotated images as (image [3, h, w], target).

    The image is resized so that its shorter side is `short_side`, or its longer side `long_side` if that
    would be exceeded. target, in pixels of the resized image: boxes [n, 4] float32 x1 y1 x2 y2; labels [n]
    int64, 1 ... K; iscrowd [n] int64 (none with `augment`: crowds are not trained on); image_id [1];
    size and input_size [2] int64, height and width of the file (scores are in its pixels) and of the image
    given; masks [n, h, w] uint8 with `masks`.

    Args:
        augment: flip every other image, drawn anew each time.
        cache: keep the resized images in memory (uint8).
    """

    def __init__(
        self,
        images: list[Annotated],
        classes: tuple[str, ...],
        *,
        short_side: int,
        long_side: int,
        augment: bool = False,
        masks: bool = False,
        cache: bool = False,
    ) -> None:
        self.images, self.classes = images, classes
        self._sides, self._augment, self._masks = (short_side, long_side), augment, masks
        self._kept: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's path, for messages."""
        return str(self.images[index].path)

    def __getitem__(self, index: int) -> Sample:
        entry = self.images[index]
        pixels = self._pixels(index)
        height, width = pixels.shape[:2]
        scale = np.array([width / entry.width, height / entry.height] * 2, dtype=np.float32)
        keep = ~entry.crowd if self._augment else np.ones_like(entry.crowd)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)
        target = {
            "boxes": torch.from_numpy(entry.boxes[keep] * scale),
            "labels": torch.from_numpy(entry.labels[keep]),
            "iscrowd": torch.from_numpy(entry.crowd[keep].astype(np.int64)),
            "image_id": torch.tensor([index]),
            "size": torch.tensor([entry.height, entry.width]),
            "input_size": torch.tensor([height, width]),
        }
        if self._masks:
            target["masks"] = self._decoded(entry, keep, (height, width))
        return flipped(image, target) if self._augment and torch.rand(()) < 0.5 else (image, target)

    def _pixels(self, index: int) -> np.ndarray:
        """The resized image, uint8 [h, w, 3]."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        entry = self.images[index]
        with Image.open(entry.path) as file:
            if file.size != (entry.width, entry.height):
                raise ValueError(
                    f"the image is {file.width} x {file.height}, its annotation says {entry.width} x "
                    f"{entry.height}"
                )
            size = resized(entry.height, entry.width, *self._sides)
            pixels = np.asarray(file.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels

    def _decoded(self, entry: Annotated, keep: np.ndarray, size: tuple[int, int]) -> Tensor:
        masks = torch.zeros(int(keep.sum()), *size, dtype=torch.uint8)
        for row, number in enumerate(np.flatnonzero(keep)):
            mask = Image.fromarray(decode_mask(entry.segments[number], entry.height, entry.width))
            masks[row] = torch.from_numpy(np.array(mask.resize(size[::-1], Image.Resampling.NEAREST)))
        return masks


def resized(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width with the shorter side at `short_side` unless the longer would exceed `long_side`."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def flipped(image: Tensor, target: dict[str, Tensor]) -> Sample:
    """Image and target mirrored left to right."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    target = target | {"boxes": torch.stack([width - x2, y1, width - x1, y2], 1)}
    if "masks" in target:
        target["masks"] = target["masks"].flip(2)
    return image.flip(2), target


def collate(samples: list[Sample]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of different sizes stay a list, as torchvision's detectors take them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)
