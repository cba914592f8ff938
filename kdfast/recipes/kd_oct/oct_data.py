"""OCT images with their patients: NEH, UCSD (Kermany) and OCTMNIST layouts, and two demonstration sets.

neh        data_information.csv with Patient ID, Class, Label, Directory; CLASS/CASE/[EYE/]*.jpg
ucsd       train/CLASS/CLASS-PATIENT-NUMBER.jpeg and test/...; patients of both are dropped from train
octmnist   octmnist*.npz: {train,val,test}_{images,labels}; its own split, no patients
elpv       2,624 solar cells in three grades, every cell a "patient" (see builtin_images)
synthetic  600 drawn B-scans of 60 patients (see synthetic)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from kdfast.recipes.common import builtin_images
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.loaders import Readable
from kdfast.recipes.kd_oct import synthetic
from kdfast.recipes.kd_oct.layouts import CSV, UCSD_CLASSES, OctSet, in_memory, neh, octmnist, ucsd

DEMONSTRATIONS = ("elpv", "synthetic")


class View(Readable):
    """Rows of an OctSet through a transform: (image [3, S, S] float32, label)."""

    def __init__(self, data: OctSet, rows: Sequence[int], transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__(_Rows(data, rows, transform), lambda index: data.names[rows[index]])
        self.indices = list(rows)  # as of a Subset


class _Rows(Dataset):
    def __init__(self, data: OctSet, rows: Sequence[int], transform: Callable[[Tensor], Tensor]) -> None:
        self._data, self._chosen, self._transform = data, list(rows), transform

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = self._chosen[index]
        return self._transform(self._data.read(row)), self._data.labels[row]


def load(data: str, *, size: int = 64, skip_bad: bool = False) -> OctSet:
    """What --data names: a demonstration set, or a folder whose layout is recognised.

    Args:
        size: of the demonstration sets' images.
        skip_bad: leave out files that cannot be read, after a look at each.

    Raises:
        UserError: no such data, an unknown layout, label or file.
    """
    if data == "elpv":
        return _arrays(builtin_images.load("elpv", size))
    if data == "synthetic":
        images, labels, owners = synthetic.b_scans(60, 10, size=size)
        names = [f"patient {owner}, scan {i}" for i, owner in enumerate(owners)]
        patients = [f"p{owner}" for owner in owners]
        source = f"600 drawn B-scans of 60 patients, {size} x {size} (synthetic)"
        return OctSet(source, synthetic.CLASSES, names, labels.tolist(), patients, in_memory(images[:, None]))
    folder = Path(data)
    if not folder.is_dir():
        known = ", ".join(DEMONSTRATIONS)
        raise UserError(f"--data {data}: {known}, or a folder in the NEH, UCSD or OCTMNIST layout, is needed")
    if (folder / CSV).is_file():
        found = neh(folder)
    elif sorted(folder.glob("octmnist*.npz")):
        return octmnist(sorted(folder.glob("octmnist*.npz"))[-1])
    elif (folder / "train").is_dir() and (folder / "test").is_dir():
        found = ucsd(folder)
    else:
        raise UserError(
            f"--data {data}: neither {CSV} (NEH) nor train/ and test/ (UCSD) nor octmnist*.npz is there"
        )
    return readable_only(found) if skip_bad else found


def _arrays(arrays: builtin_images.Arrays) -> OctSet:
    labels = arrays.labels.tolist()
    names = [f"cell {row + 1}" for row in range(len(labels))]
    return OctSet(arrays.source, arrays.classes, names, labels, names, in_memory(arrays.images.numpy()))


def readable_only(data: OctSet) -> OctSet:
    """`data` without the images that cannot be read; `bad` names them."""
    good, bad = [], []
    for row, name in enumerate(data.names):
        try:
            data.read(row)
            good.append(row)
        except Exception:  # a decoder may raise anything
            bad.append(name)
    extra, read = set(data.extra), data.read
    columns = ([column[row] for row in good] for column in (data.names, data.labels, data.patients))
    made = OctSet(data.source, data.classes, *columns, read=lambda index: read(good[index]), bad=bad)
    made.extra = [index for index, row in enumerate(good) if row in extra]
    return made


__all__ = ["DEMONSTRATIONS", "UCSD_CLASSES", "OctSet", "View", "load", "readable_only"]
