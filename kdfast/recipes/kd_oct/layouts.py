"""The layouts of OCT folders: NEH, UCSD, OCTMNIST."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.image_folders import SUFFIXES
from kdfast.recipes.kd_oct.folds import Fold

NEH_CLASSES = ("normal", "drusen", "cnv")
UCSD_CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
CSV = "data_information.csv"


@dataclass
class OctSet:
    """Images by row: name, label, patient; `read` gives uint8 [3, H, W].

    extra: rows of a further test set (UCSD's official one), which is in no fold. given: the set's own split.
    """

    source: str
    classes: tuple[str, ...]
    names: list[str]
    labels: list[int]
    patients: list[str]
    read: Callable[[int], Tensor]
    extra: list[int] = field(default_factory=list)
    given: list[Fold] | None = None
    bad: list[str] = field(default_factory=list)

    def rows(self) -> list[int]:
        """The rows that folds are made of."""
        held = set(self.extra)
        return [row for row in range(len(self.names)) if row not in held]


def in_memory(images: np.ndarray) -> Callable[[int], Tensor]:
    """[N, 1, H, W] uint8 in memory -> reader of [3, H, W]."""
    return lambda row: torch.from_numpy(np.ascontiguousarray(images[row])).expand(3, -1, -1)


def _files(paths: Sequence[Path]) -> Callable[[int], Tensor]:
    def read(row: int) -> Tensor:
        from PIL import Image

        with Image.open(paths[row]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)

    return read


def neh(folder: Path) -> OctSet:
    """NEH-UT 2021: scans whose own label is their patient's diagnosis (the "worst-case" filter).

    Patient ids restart in every class folder, so a patient is CLASS/ID.
    """
    with open(folder / CSV, newline="", encoding="utf-8-sig") as file:
        table = [
            {key.strip(): (value or "").strip() for key, value in row.items() if key}
            for row in csv.DictReader(file)
        ]
    needed = ("Patient ID", "Class", "Label", "Directory")
    missing = [name for name in needed if not table or name not in table[0]]
    if missing:
        raise UserError(f"{folder / CSV} has no column {', '.join(missing)}; {', '.join(needed)} are needed")
    paths, labels, patients = [], [], []
    for number, row in enumerate(table, start=2):
        grades = [_grade(row[name], folder / CSV, number) for name in ("Class", "Label")]
        if grades[0] != grades[1]:
            continue
        path = folder / row["Directory"].replace("\\", "/").lstrip("./")
        if not path.is_file():
            raise UserError(f"{folder / CSV}, line {number}: there is no file {path}")
        paths.append(path)
        labels.append(grades[0])
        patients.append(f"{NEH_CLASSES[grades[0]]}/{row['Patient ID']}")
    return _of_files(
        f"NEH, {len(paths):,} B-scans of {len(set(patients))} patients",
        NEH_CLASSES,
        folder,
        paths,
        labels,
        patients,
    )


def _grade(name: str, file: Path, line: int) -> int:
    try:
        return NEH_CLASSES.index(name.lower())
    except ValueError:
        known = ", ".join(NEH_CLASSES)
        raise UserError(f"{file}, line {line}: label {name!r} is unknown; the labels are {known}") from None


def ucsd(folder: Path) -> OctSet:
    """Kermany et al.: patients from the file names; training images of test patients are left out."""
    listed = {part: _ucsd_part(folder / part) for part in ("train", "test")}
    tested = {patient for _, _, patient in listed["test"]}
    kept = [each for each in listed["train"] if each[2] not in tested]
    dropped = len(listed["train"]) - len(kept)
    rows = kept + listed["test"]
    paths, labels, patients = (list(column) for column in zip(*rows, strict=True))
    numbers = f"{len(kept):,} B-scans ({dropped:,} of test patients left out)"
    source = f"UCSD, {numbers}, {len(listed['test']):,} official test"
    made = _of_files(source, UCSD_CLASSES, folder, paths, labels, patients)
    made.extra = list(range(len(kept), len(rows)))
    return made


def _ucsd_part(folder: Path) -> list[tuple[Path, int, str]]:
    found = []
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if place.name.upper() not in UCSD_CLASSES:
            raise UserError(
                f"{place}: class {place.name!r} is unknown; the classes are {', '.join(UCSD_CLASSES)}"
            )
        for path in sorted(place.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                parts = path.stem.split("-")
                if len(parts) < 3:
                    raise UserError(
                        f"{path}: CLASS-PATIENT-NUMBER is needed as its name, to know the patient"
                    )
                found.append((path, UCSD_CLASSES.index(place.name.upper()), f"{parts[0].upper()}/{parts[1]}"))
    if not found:
        raise UserError(f"{folder} holds no class folders with images")
    return found


def octmnist(file: Path) -> OctSet:
    """MedMNIST's OCTMNIST (28 x 28 or larger): its own split is the one fold."""
    try:
        with np.load(file) as arrays:
            parts = {
                name: (arrays[f"{name}_images"], arrays[f"{name}_labels"])
                for name in ("train", "val", "test")
            }
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{file} cannot be read as OCTMNIST: {error}") from error
    images = np.concatenate([part[0] for part in parts.values()])
    images = images.reshape(len(images), 1, *images.shape[1:3])
    labels = np.concatenate([part[1].reshape(-1) for part in parts.values()]).astype(int).tolist()
    ends = np.cumsum([len(part[0]) for part in parts.values()])
    fold = Fold(*(list(range(start, end)) for start, end in zip([0, *ends[:-1]], ends, strict=True)))
    names = [f"{file.stem} {row}" for row in range(len(labels))]
    made = OctSet(f"OCTMNIST, {len(labels):,} B-scans", UCSD_CLASSES, names, labels, names, in_memory(images))
    made.given = [fold]
    return made


def _of_files(
    source: str,
    classes: tuple[str, ...],
    folder: Path,
    paths: list[Path],
    labels: list[int],
    patients: list[str],
) -> OctSet:
    names = [str(path.relative_to(folder)) for path in paths]
    return OctSet(source, classes, names, labels, patients, _files(paths))
