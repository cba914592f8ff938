"""Images with a class for each pixel, resized or cut to crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

IGNORED = 255
Loaded = tuple[np.ndarray, np.ndarray]  # uint8 [H, W, 3], uint8 [H, W]


@dataclass(frozen=True)
class Labelled:
    """An image with its labels, read when `load` is called; `name` is for messages."""

    name: str
    load: Callable[[], Loaded]


class SegmentationSet(Dataset):
    """(image [3, h, w] float32 in [0, 1], labels [h, w] int64, 255 for no label).

    Args:
        size: height and width that every image is resized to; None for the file's own.
        crop, scales: with `augment`, the image is scaled by a factor drawn from `scales`, a window of `crop`
            is cut out at random (padded with 255 where it is larger) and mirrored every other time. None for
            `size`.
    """

    def __init__(
        self,
        samples: list[Labelled],
        classes: tuple[str, ...],
        *,
        size: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        scales: tuple[float, float] = (0.5, 2.0),
        augment: bool = False,
    ) -> None:
        self.samples, self.classes = samples, classes
        self._size = size
        self._augment = None if not augment else _augmentation(crop or size, size, scales)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """The image's path, for messages."""
        return self.samples[index].name

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels, labels = self.samples[index].load()
        if pixels.shape[:2] != labels.shape:
            raise ValueError(f"the image is {pixels.shape[:2]}, its labels are {labels.shape}")
        worst = labels[labels != IGNORED].max(initial=0)
        if worst >= len(self.classes):
            raise ValueError(f"label {worst} is none of the {len(self.classes)} classes (255 for no label)")
        image = tv_tensors.Image(torch.from_numpy(np.array(pixels)).permute(2, 0, 1))
        target = tv_tensors.Mask(torch.from_numpy(np.array(labels)))
        if self._size is not None:
            image, target = v2.Resize(self._size)(image, target)
        if self._augment is not None:
            image, target = self._augment(image, target)
        return image.as_subclass(Tensor).float().div(255), target.as_subclass(Tensor).long()


def _augmentation(
    crop: tuple[int, int] | None, size: tuple[int, int] | None, scales: tuple[float, float]
) -> Callable:
    if crop is None:
        raise ValueError("augment needs crop or size: the images of a batch must have one size")
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
    return v2.Compose(
        [
            _Rescale(scales),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
            v2.RandomHorizontalFlip(),
        ]
    )


class _Rescale:
    """Resize by a factor drawn from a range."""

    def __init__(self, scales: tuple[float, float]) -> None:
        self._scales = scales

    def __call__(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self._scales
        factor = low + (high - low) * float(torch.rand(()))
        return v2.Resize([max(1, round(side * factor)) for side in image.shape[1:]])(image, target)
