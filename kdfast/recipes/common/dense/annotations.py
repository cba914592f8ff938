"""One image's objects, as every reader gives them, and the checks that all of them share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdfast.recipes.common.errors import UserError

MIN_SIDE = 1e-3  # pixels; a narrower box has no area


@dataclass
class Annotated:
    """An image and its objects.

    boxes: [n, 4] float32, x1 y1 x2 y2 in pixels of the file; labels: [n] int64, 1 ... K (0 is background).
    crowd: [n] bool, regions that are neither trained on nor counted as missed. segments: COCO polygons or
    run lengths, one an object, where the set has masks.
    """

    path: Path
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    segments: list[Any] | None = None


@dataclass
class Findings:
    """What a reader corrected or left out: "boxes cut at the border" -> how many, and the first place."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, where: str, count: int = 1) -> None:
        if count:
            self.counts[what] += count
            self.first.setdefault(what, where)

    def sentences(self) -> list[str]:
        """One sentence for each kind of finding."""
        return [f"{number} {what} (first: {self.first[what]})." for what, number in self.counts.items()]


def annotated(
    path: Path,
    size: tuple[int, int],
    rows: list[tuple[float, float, float, float, int, bool, Any]],
    findings: Findings,
    *,
    masks: bool = False,
) -> Annotated:
    """Boxes cut to the image, those without area left out and noted.

    Args:
        size: height and width of the image in pixels.
        rows: (x1, y1, x2, y2, label, crowd, segment) of each object.

    Raises:
        UserError: a coordinate is not a finite number, or a box has its corners swapped.
    """
    height, width = size
    table = np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(table).all():
        row = table[~np.isfinite(table).all(1)][0].tolist()
        raise UserError(f"{path.name}: box {row} has a coordinate that is not a finite number")
    if ((table[:, 2:] - table[:, :2]) < 0).any():
        row = table[((table[:, 2:] - table[:, :2]) < 0).any(1)][0].tolist()
        raise UserError(f"{path.name}: box {row} ends before it begins; x1 y1 x2 y2 with x1 <= x2 are needed")
    cut = table.clip([0, 0, 0, 0], [width, height, width, height])
    findings.add("boxes cut at the image's border", path.name, int((cut != table).any(1).sum()))
    keep = ((cut[:, 2:] - cut[:, :2]) > MIN_SIDE).all(1)
    findings.add("boxes without area (in the image) left out", path.name, int((~keep).sum()))
    kept = [row for row, good in zip(rows, keep, strict=True) if good]
    return Annotated(
        path,
        height,
        width,
        cut[keep].astype(np.float32),
        np.array([row[4] for row in kept], dtype=np.int64),
        np.array([row[5] for row in kept], dtype=bool),
        [row[6] for row in kept] if masks else None,
    )


def label_of(name: str, classes: tuple[str, ...], where: str) -> int:
    """Number of a class, 1 for the first. Raises UserError for one that is not in `classes`."""
    if name not in classes:
        raise UserError(f"{where} holds an object of class {name!r}; the classes are {', '.join(classes)}")
    return classes.index(name) + 1
