"""Folds by patient: nobody is in two parts of a fold. Written once, with a digest that every network carries.

The published code splits teacher and student differently, so that a teacher has seen patients that its
student is tested on; here both read one file, and networks of other folds are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from kdfast.recipes.common.errors import UserError


class Fold(NamedTuple):
    """Row numbers of the images of each part."""

    train: list[int]
    validation: list[int]
    test: list[int]


def patient_folds(
    labels: Sequence[int], patients: Sequence[str], *, count: int = 5, validation: float = 0.2, seed: int = 43
) -> list[Fold]:
    """Stratified folds over patients, whose label is the most frequent of their images'.

    Args:
        patients: of each image; "CLASS/ID" where ids restart in every class, as NEH's do.
        count: folds; each patient is tested once.
        validation: share of a fold's training patients that is held out.

    Raises:
        UserError: a class with fewer patients than folds, or too few patients to hold some out.
    """
    names, modes = _modes(labels, patients)
    short = [(label, n) for label, n in Counter(modes.tolist()).items() if n < max(2, count)]
    if short:
        label, n = short[0]
        raise UserError(
            f"--folds {count}: class {label} has {n} patients; {max(2, count)} are needed, one for each "
            "fold's test part"
        )
    rows = {name: [] for name in names}
    for row, patient in enumerate(patients):
        rows[patient].append(row)

    def images(chosen: np.ndarray) -> list[int]:
        return sorted(row for place in chosen for row in rows[names[place]])

    folds = []
    splits = StratifiedKFold(count, shuffle=True, random_state=seed).split(names, modes)
    for number, (rest, test) in enumerate(splits):
        split = StratifiedShuffleSplit(1, test_size=validation, random_state=seed + number)
        try:
            train, held = next(split.split(rest, modes[rest]))
        except ValueError as error:  # fewer than one held out of each class
            raise UserError(
                f"--folds {count}: of the {len(rest)} patients that a fold does not test, a share of "
                f"{validation:g} is held out for validation, too few for one of each class"
            ) from error
        folds.append(Fold(images(rest[train]), images(rest[held]), images(test)))
    return folds


def _modes(labels: Sequence[int], patients: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Patients, sorted, and the most frequent label of each (the smallest of several)."""
    found: dict[str, Counter[int]] = {}
    for label, patient in zip(labels, patients, strict=True):
        found.setdefault(patient, Counter())[int(label)] += 1
    names = sorted(found)
    return names, np.array([min(found[n], key=lambda c, n=n: (-found[n][c], c)) for n in names])


def check_folds(
    folds: Sequence[Fold], labels: Sequence[int], patients: Sequence[str], classes: Sequence[str]
) -> None:
    """Raise UserError for a patient in two parts of a fold, an image tested twice, or a missing class."""
    tested: Counter[int] = Counter(row for fold in folds for row in fold.test)
    if tested and max(tested.values()) > 1:
        row = tested.most_common(1)[0][0]
        raise UserError(f"folds: an image of patient {patients[row]} is tested in two folds")
    for number, fold in enumerate(folds):
        people = [{patients[row] for row in part} for part in fold]
        for first, second, names in ((0, 1, "train and validation"), (0, 2, "train and test"),
                                     (1, 2, "validation and test")):  # fmt: skip
            both = sorted(people[first] & people[second])
            if both:
                raise UserError(
                    f"fold {number}: patient {both[0]} is in {names}; a patient must be in one part"
                )
        for part, rows in fold._asdict().items():
            missing = set(range(len(classes))) - {int(labels[row]) for row in rows}
            if missing:
                name = classes[min(missing)]
                raise UserError(f"fold {number}: its {part} part has no image of class {name}")


def written(folds: Sequence[Fold], names: Sequence[str]) -> str:
    """folds.json: the names of the images of every part."""
    parts = [{part: [names[row] for row in rows] for part, rows in fold._asdict().items()} for fold in folds]
    return json.dumps(parts, indent=0) + "\n"


def digest(text: str) -> str:
    """What tells these folds from others."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
