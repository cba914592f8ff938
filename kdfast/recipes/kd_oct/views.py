"""Augmentation of teacher and student and the views of test-time augmentation, as in KD-OCT's code.

Images come in as uint8 [3, H, W] and go out as normalised float32 [3, S, S]. Sizes are given for S = 384 in
the paper (416 and 422 before the crop) and scale with S. Corrected: RandAugment's translation moves by a
share of the side (the code gives torchvision a fraction of a pixel).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
View = Callable[[Tensor], Tensor]


class RandAugment(torch.nn.Module):
    """`count` of six operations at magnitude m of 30: brightness, contrast, saturation, sharpness by
    1 +- m/30, rotation by up to m degrees, translation by up to m/100 of the side; without `translate` of
    four, as the student's.
    """

    def __init__(
        self, count: int, magnitude: float, *, translate: bool = True, degrees: float | None = None
    ) -> None:
        super().__init__()
        self.count, self.magnitude, self.translate = count, magnitude, translate
        self.degrees = magnitude if degrees is None else degrees

    def forward(self, image: Tensor) -> Tensor:
        kinds = ["brightness", "contrast", "rotate", "sharpness"]
        kinds += ["saturation", "translate"] if self.translate else []
        for kind in torch.randint(len(kinds), (self.count,)).tolist():
            image = self._apply_one(kinds[kind], image, float(torch.rand(()) * 2 - 1))
        return image

    def _apply_one(self, kind: str, image: Tensor, share: float) -> Tensor:
        if kind == "rotate":
            return TF.rotate(image, share * self.degrees)
        if kind == "translate":
            reach = self.magnitude / 100
            moves = [round(share * reach * side) for side in image.shape[-2:]]
            return TF.affine(image, angle=0, translate=moves, scale=1, shear=[0.0, 0.0])
        return getattr(TF, f"adjust_{kind}")(image, 1 + share * self.magnitude / 30)


def teacher_train(size: int) -> View:
    """RandAugment(2, 9), rotation 20, shear 15 and scale, colour, both flips, blur, posterize, erasing."""
    return v2.Compose([
        v2.Resize((_scaled(416, size),) * 2), v2.RandomCrop(size), RandAugment(2, 9), v2.RandomRotation(20),
        v2.RandomAffine(0, shear=15, scale=(0.85, 1.15)), v2.ColorJitter(0.3, 0.3, 0.2, 0.05),
        v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(0.3),
        v2.RandomApply([v2.GaussianBlur(3)], 0.2), v2.RandomApply([v2.RandomPosterize(4)], 0.2),
        v2.ToDtype(torch.float32, scale=True), v2.RandomErasing(0.25, (0.02, 0.15)), v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def student_train(size: int) -> View:
    """RandAugment(2, 7) of four operations, rotation 15, colour, left-right flips, erasing."""
    return v2.Compose([
        v2.Resize((_scaled(416, size),) * 2), v2.RandomCrop(size),
        RandAugment(2, 7, translate=False, degrees=4.67), v2.RandomRotation(15),
        v2.ColorJitter(0.2, 0.2, 0.2), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
        v2.RandomErasing(0.2, (0.02, 0.1)), v2.Normalize(MEAN, STD),
    ])  # fmt: skip


def plain(size: int) -> View:
    """Resized and normalised, for validation and test."""
    return v2.Compose([v2.Resize((size, size)), *_finish()])


def test_views(size: int) -> list[View]:
    """Five views whose logits are averaged: plain, both flips, a closer crop, turned by 5 degrees.

    The code turns by a random angle of up to 5 degrees, which gives another score in every run.
    """
    base = [v2.Resize((size, size))]
    close = [v2.Resize((_scaled(422, size),) * 2), v2.CenterCrop(size)]
    extra = ([], [TF.horizontal_flip], [TF.vertical_flip], None, [lambda image: TF.rotate(image, 5.0)])
    return [v2.Compose([*(close if e is None else [*base, *e]), *_finish()]) for e in extra]


def _scaled(side: int, size: int) -> int:
    """A side given for 384."""
    return round(side * size / 384)


def _finish() -> list[Callable]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
