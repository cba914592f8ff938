"""Labelled images, split into training, validation and test: what --data names.

    mnist, digits, animals, elpv      built in, see builtin_images
    a folder with CIFAR's python files, a folder of class folders (ImageFolder), a folder with train/ and val/
    (ImageNet) and perhaps test/: see image_folders

Images come out of a dataset as normalised float32 [C, S, S]. Sets in memory are augmented a batch at a time
by `augment`, on the device; files sample by sample by their dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from kdfast.recipes.common import augment, builtin_images, image_folders
from kdfast.recipes.common.augment import MEAN, STD
from kdfast.recipes.common.builtin_images import Arrays
from kdfast.recipes.common.errors import UserError

SHARES = (0.7, 0.1, 0.2)  # of each class: training, validation, test; the split is fixed, whatever the seed


@dataclass(frozen=True)
class ImageSet:
    """Training, validation and test images of one source.

    train: as trained on, augmented if its images are files; plain_train: the same rows without augmentation.
    labels: of the training rows. augment: the augmentation of a batch, for sets in memory. bad: names of
    files that were left out. mean, std: what the images, in [0, 1], were normalised by, for each channel.
    """

    source: str
    classes: tuple[str, ...]
    channels: int
    size: int
    train: Dataset
    plain_train: Dataset
    validation: Dataset
    test: Dataset
    labels: Tensor
    augment: nn.Module | None = None
    bad: Sequence[str] = field(default_factory=tuple)
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD

    def few(self, share: float, seed: int) -> list[int]:
        """Rows of `train` that keep `share` of every class's labels, one at least, drawn by `seed`."""
        return few_rows(self.labels, share, seed)

    def example(self) -> Tensor:
        """One validation image as a batch [1, C, S, S]."""
        return self.validation[0][0][None]


def few_rows(labels: Tensor, share: float, seed: int) -> list[int]:
    """Row numbers, sorted, of `share` of each class (rounded, one at least), drawn by `seed`."""
    draw = np.random.default_rng(seed)
    rows = []
    for label in np.unique(labels):
        found = draw.permutation(np.flatnonzero(labels.numpy() == label))
        rows.extend(found[: max(1, round(share * len(found)))])
    return sorted(int(row) for row in rows)


def split_rows(labels: np.ndarray, shares: Sequence[float] = SHARES) -> list[list[int]]:
    """Row numbers of each part, drawn class by class, the same in every run."""
    draw = np.random.default_rng(0)
    parts: list[list[int]] = [[] for _ in shares]
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        bounds = np.rint(np.cumsum(shares) * len(rows)).astype(int)
        for part, chosen in zip(parts, np.split(rows, bounds[:-1]), strict=True):
            part.extend(int(row) for row in chosen)
    return [sorted(part) for part in parts]


class Images(Dataset):
    """uint8 images [N, C, S, S] in memory, given out normalised."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
        self.images, self.labels = images, labels
        self._mean, self._std = mean.view(-1, 1, 1) * 255, std.view(-1, 1, 1) * 255

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return (self.images[row] - self._mean) / self._std, int(self.labels[row])


def load(
    data: str, *, size: int = 0, channels: int = 0, kind: str = "auto", validation: float = 0.1,
    skip_bad: bool = False,
) -> ImageSet:  # fmt: skip
    """The set that `data` names.

    Args:
        size: side of the images; 0 for the set's own (224 for files).
        channels: 1 or 3; 0 for the set's own (3 for files).
        kind: the augmentation, one of `augment.KINDS`.
        validation: share of the training images that become validation images where the data has none of its
            own; 0: the test images serve as both (nothing is chosen by them).
        skip_bad: leave out files that cannot be read.

    Raises:
        UserError: no such data, no images, a class that is missing in a part, an image that cannot be read.
    """
    if data in builtin_images.NAMES:
        arrays = resize(builtin_images.load(data, size), size, channels)
        parts = split_rows(arrays.labels.numpy())
        return from_arrays(
            arrays, parts, kind="move" if kind == "auto" and data not in ("elpv", "stamps") else kind
        )
    folder = Path(data)
    if not folder.is_dir():
        names = ", ".join(builtin_images.NAMES)
        raise UserError(f"--data {data}: one of {names}, or a folder of images, is needed")
    if image_folders.is_cifar(folder):
        arrays, train_rows = image_folders.cifar(folder)
        parts = _with_validation(arrays.labels.numpy(), train_rows, validation)
        return from_arrays(resize(arrays, size, channels), parts, kind=kind)
    return _from_files(
        folder, size=size or 224, channels=channels or 3, kind=kind, validation=validation, skip_bad=skip_bad
    )


def _with_validation(labels: np.ndarray, train: int, share: float) -> list[list[int]]:
    """Rows [0, train) are for training, the rest is the test set."""
    test = list(range(train, len(labels)))
    if share == 0:
        return [list(range(train)), test, test]
    kept, held = split_rows(labels[:train], (1 - share, share))
    return [kept, held, test]


def resize(arrays: Arrays, size: int, channels: int) -> Arrays:
    """`arrays` with images of the side and the number of channels asked for (0: as they are)."""
    images = arrays.images
    if size and size != images.shape[-1]:
        images = torch.nn.functional.interpolate(
            images.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        images = images.round().clamp(0, 255).to(torch.uint8)
    if channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif channels == 1 and images.shape[1] == 3:
        images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
    return Arrays(arrays.source, images, arrays.labels, arrays.classes)


def from_arrays(arrays: Arrays, parts: Sequence[Sequence[int]], *, kind: str = "auto") -> ImageSet:
    """The set of `arrays` with the rows of its three parts; normalised by its training images."""
    train = torch.tensor(parts[0])
    pixels = arrays.images[train].float().div(255).transpose(0, 1).flatten(1)
    mean, std = pixels.mean(1), pixels.std(1).clamp_min(1e-3)
    whole = Images(arrays.images, arrays.labels, mean, std)
    subsets = [Subset(whole, list(part)) for part in parts]
    moved = augment.batchwise("flip-crop" if kind == "auto" else kind, -mean / std)
    return ImageSet(
        arrays.source, arrays.classes, arrays.images.shape[1], arrays.images.shape[-1], subsets[0], *subsets,
        labels=arrays.labels[train], augment=moved, mean=mean.tolist(), std=std.tolist(),
    )  # fmt: skip


def _from_files(
    folder: Path, *, size: int, channels: int, kind: str, validation: float, skip_bad: bool
) -> ImageSet:
    found = image_folders.scan(folder)
    train, held, test = found.parts
    if test is None and held is not None:
        held, test = None, held  # as with ImageNet, whose val/ serves as the test set
    labels = np.array([label for _, label in train])
    if test is None:
        chosen = split_rows(labels)
        train, held, test = ([train[row] for row in rows] for rows in chosen)
    elif held is None and validation:
        chosen = split_rows(labels, (1 - validation, validation))
        train, held = ([train[row] for row in rows] for rows in chosen)
    held = test if held is None else held
    image_folders.check_classes(folder, found.classes, {"training": train, "validation": held, "test": test})
    plain = augment.samplewise("none", size, channels)
    moved = augment.samplewise("imagenet" if kind == "auto" else kind, size, channels)
    views = [(train, moved), (train, plain), (held, plain), (test, plain)]
    read = [image_folders.readable(part, view, channels, skip_bad=skip_bad) for part, view in views]
    bad = sorted({name for part in read for name in part.bad})
    source = f"{folder.name}: {sum(map(len, (train, held, test))):,} files, {size} x {size}"
    mean, std = augment.statistics(channels)
    return ImageSet(
        source, found.classes, channels, size, *read, labels=read[1].labels(), bad=bad, mean=mean, std=std,
    )  # fmt: skip
