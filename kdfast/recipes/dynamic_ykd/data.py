"""What a step sees: the images with an object of its classes, and of their annotations only those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdfast.recipes.common.dense.detection_set import Sample
from kdfast.recipes.common.loaders import Readable

OF_OBJECTS = ("boxes", "labels", "iscrowd", "masks")  # the parts of a target with a row an object


class ClassesOnly(Dataset):
    """The samples of a detection set with the objects of some classes; other objects are background.

    Args:
        samples: a Readable of a DetectionSet; labels stay as they are.
        labels: the classes that are kept.
        only_with: leave out images without any of them, as in training.
    """

    def __init__(self, samples: Readable, labels: Sequence[int], *, only_with: bool = False) -> None:
        self._samples, self._labels = samples, torch.tensor(sorted(labels))
        annotated = samples.dataset.images
        self._rows = [
            index
            for index in range(len(samples))
            if not only_with or np.isin(annotated[samples.row(index)].labels, self._labels).any()
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        image, target = self._samples[self._rows[index]]
        return image, kept(target, self._labels)


def kept(target: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """The target with the objects of these labels."""
    rows = torch.isin(target["labels"], labels)
    return {name: value[rows] if name in OF_OBJECTS else value for name, value in target.items()}
