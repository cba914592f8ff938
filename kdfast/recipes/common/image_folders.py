"""The person's own images: CIFAR's python files, class folders, ImageNet's layout.

DATA/cifar-10-batches-py/, DATA/cifar-100-python/, or one of these folders itself
DATA/CLASS/*.jpg                              split 70 / 10 / 20 % by class
DATA/train/CLASS/*, DATA/val/CLASS/*          val is the test set, validation images come out of train
DATA/train/, DATA/val/, DATA/test/            as they are
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kdfast.recipes.common.builtin_images import Arrays
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.loaders import Readable

Sample = tuple[str, int]  # path, class number
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_PARTS = (("train",), ("val", "valid", "validation"), ("test",))
_CIFAR = {  # folder: (training files, test file, names file, key of labels, key of names)
    "cifar-10-batches-py": (
        [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", b"labels", b"label_names",
    ),
    "cifar-100-python": (["train"], "test", "meta", b"fine_labels", b"fine_label_names"),
}  # fmt: skip


class Found(NamedTuple):
    """Class names, and the samples of train, val and test; None for parts that have no folder."""

    classes: tuple[str, ...]
    parts: tuple[list[Sample], list[Sample] | None, list[Sample] | None]


def scan(folder: Path) -> Found:
    """List the images under `folder`. Raises UserError where there are none or the parts' classes differ."""
    named = [next((folder / name for name in names if (folder / name).is_dir()), None) for names in _PARTS]
    if named[0] is None:
        classes, samples = _class_folders(folder)
        return Found(classes, (samples, None, None))
    listed = [None if part is None else _class_folders(part) for part in named]
    classes = listed[0][0]
    for part, found in zip(named[1:], listed[1:], strict=True):
        if found is not None and found[0] != classes:
            names = sorted(set(found[0]) ^ set(classes))[:5]
            raise UserError(f"--data: {part} and {named[0]} differ in the classes {', '.join(names)}")
    return Found(classes, tuple(None if found is None else found[1] for found in listed))


def _class_folders(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    samples = [
        (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    ]
    if len(classes) < 2 or not samples:
        raise UserError(
            f"--data {folder} needs a folder of images ({', '.join(SUFFIXES)}) for each of two or more "
            "classes"
        )
    return tuple(classes), samples


def check_classes(folder: Path, classes: Sequence[str], parts: dict[str, list[Sample]]) -> None:
    """Raise UserError for a class without an image in one of the parts."""
    for part, samples in parts.items():
        missing = set(range(len(classes))) - {label for _, label in samples}
        if missing:
            names = ", ".join(classes[label] for label in sorted(missing)[:5])
            raise UserError(f"--data {folder}: there is no {part} image of {names}")


class Files(Dataset):
    """Images read from files when they are asked for: (transformed image, class number)."""

    def __init__(self, samples: Sequence[Sample], transform: Callable[[Any], Tensor], channels: int) -> None:
        self.samples, self._transform = list(samples), transform
        self._mode = "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.samples[row]
        with Image.open(path) as image:
            return self._transform(image.convert(self._mode)), label


COUNTED = 10_000  # files that are opened to say how many are damaged, before a run stops


class ReadableFiles(Readable):
    """Files that may be damaged; see Readable. A run that stops says how many there are."""

    def __getitem__(self, index: int) -> Any:
        try:
            return super().__getitem__(index)
        except UserError as error:
            raise UserError(f"{error}{self._damage()}") from error.__cause__

    def _damage(self) -> str:
        paths = [path for path, _ in self.dataset.samples[:COUNTED]]
        bad = sum(not _opens(path) for path in paths)
        which = "the" if len(paths) == len(self.dataset.samples) else "the first"
        return f" ({bad} of {which} {len(paths)} images cannot be read)" if bad else ""

    def labels(self) -> Tensor:
        """Of the samples that are left, [N] int64."""
        return torch.tensor([self.dataset.samples[row][1] for row in self._rows])


_tried: dict[str, bool] = {}  # path -> readable: --skip-bad opens each file once, not for each view


def readable(
    samples: Sequence[Sample], transform: Callable[[Any], Tensor], channels: int, *, skip_bad: bool
) -> ReadableFiles:
    """`samples` as a dataset; with `skip_bad` every file is opened once before anything runs."""
    bad = [path for path, _ in samples if skip_bad and not _opens(path)]
    left_out = set(bad)
    kept = [sample for sample in samples if sample[0] not in left_out]
    files = Files(kept, transform, channels)
    found = ReadableFiles(files, lambda row: files.samples[row][0])
    found.bad = bad
    return found


def _opens(path: str) -> bool:
    from PIL import Image

    if path not in _tried:
        try:
            with Image.open(path) as image:
                image.load()
            _tried[path] = True
        except Exception:  # a decoder may raise anything
            _tried[path] = False
    return _tried[path]


class _Cifar(pickle.Unpickler):
    """Admits what CIFAR's files hold, numpy arrays in plain types, and no other code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.partition(".")[0], name) in {
            ("numpy", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def is_cifar(folder: Path) -> bool:
    """Whether `folder` is, or holds, CIFAR's python files."""
    return _cifar_folder(folder) is not None


def _cifar_folder(folder: Path) -> tuple[Path, str] | None:
    for name, (train, test, meta, *_) in _CIFAR.items():
        for place in (folder, folder / name):
            if all((place / file).is_file() for file in (*train, test, meta)):
                return place, name
    return None


def cifar(folder: Path) -> tuple[Arrays, int]:
    """CIFAR-10 or CIFAR-100 -> all images, training images first, and how many those are."""
    place, name = _cifar_folder(folder)
    train, test, meta, label_key, names_key = _CIFAR[name]
    read = [_unpickle(place / file) for file in (*train, test)]
    pixels = np.concatenate([part[b"data"] for part in read]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([np.asarray(part[label_key], np.int64) for part in read])
    classes = tuple(label.decode() for label in _unpickle(place / meta)[names_key])
    count = sum(len(part[label_key]) for part in read[:-1])
    title = f"{'CIFAR-10' if len(classes) == 10 else 'CIFAR-100'}, {len(labels):,} images of 32 x 32"
    return Arrays(title, torch.from_numpy(pixels), torch.from_numpy(labels), classes), count


def _unpickle(path: Path) -> dict[bytes, Any]:
    try:
        with open(path, "rb") as file:
            return _Cifar(file, encoding="bytes").load()
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
