"""Watching the masks: pictures of the spatial masks over an image each epoch, and their collapse.

L^s and L^c are proportional to the masks and the diversity loss does not see their size, so training can
lower the loss by shrinking the masks to nothing; the student then learns nothing from the teacher. Each
level's mean mask is logged every epoch (metrics.jsonl, "masks"), and a mean below COLLAPSED is said.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdfast.recipes.common.dense.pictures import heat_over
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import is_main, say

COLUMNS = 6
COLLAPSED = 0.01  # mean of the spatial masks of a level; they start at 0.5


class MaskPictures:
    """At the end of each epoch writes OUT/masks/STAGE/epoch-NN.png and looks for collapsed levels.

    Levels follow each other, masks are beside each other; the image is the first validation image.
    """

    def __init__(self, out: RunFolder, task: Any, stage: str) -> None:
        self._out, self._task, self._stage = out, task, stage

    def __call__(self, module: Any) -> None:
        if not is_main():
            return
        distiller = module.network
        image = self._task.data.validation[0][0].to(module.device)
        training = distiller.student.training
        with torch.no_grad():
            ours = self._task.features(distiller.student.eval(), image)
            theirs = self._teacher_features(distiller, image)
            masks = distiller.terms[0].loss.distiller.masks(ours, theirs)
        distiller.student.train(training)
        epoch = module.current_epoch + 1
        self._out.write(f"masks/{self._stage}/epoch-{epoch:03}.png", sheet(image.cpu(), masks))
        for level in collapsed({name: pair[0] for name, pair in masks.items()}):
            say(f"{self._stage}: the masks of level {level} have collapsed (mean below {COLLAPSED}); "
                "--mask-norm l2 keeps the loss from rewarding that")  # fmt: skip

    def _teacher_features(self, distiller: Any, image: Tensor) -> Any:
        teacher = distiller.teacher
        if hasattr(teacher, "transform"):  # a detector's neck
            return teacher([image])
        return self._task.features(teacher, image)


def collapsed(spatial: dict[str, Tensor]) -> list[str]:
    """The levels whose mean spatial mask is below COLLAPSED."""
    return [name for name, masks in spatial.items() if masks.numel() and float(masks.mean()) < COLLAPSED]


def sheet(image: Tensor, masks: dict[str, tuple[Tensor, Tensor]]) -> bytes:
    """A PNG: the spatial masks [1, M, H, W] over the image [3, H, W], COLUMNS a row."""
    rows = []
    for spatial, _ in masks.values():
        tiles = [_framed(heat_over(image, mask.cpu(), zoom=1)) for mask in spatial[0]]
        columns = min(COLUMNS, max(pair[0].size(1) for pair in masks.values()))
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
        rows += [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def _framed(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((1, 1), (1, 1), (0, 0)), constant_values=255)
