"""KITTI detection: training/image_2/*.png with training/label_2/*.txt."""

from __future__ import annotations

from pathlib import Path

from kdfast.recipes.common.dense.annotations import Annotated, Findings, annotated
from kdfast.recipes.common.dense.voc import image_size
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.seeds import derive

CLASSES = ("Car", "Pedestrian", "Cyclist")
KINDS = (*CLASSES, "Van", "Truck", "Person_sitting", "Tram", "Misc", "DontCare")


def read_kitti(
    root: Path, split: str, classes: tuple[str, ...], findings: Findings, *, skip_bad: bool = False
) -> list[Annotated]:
    """The images of one of the parts train, val, test: 8 : 1 : 1 of the labelled images, by their names.

    KITTI labels no test set, and the papers split the 7,481 training images 8 : 2. Objects of other kinds
    than `classes` are left out; DontCare regions make no foreground.

    skip_bad: leave out images whose labels or picture cannot be read, and note them.

    Raises:
        UserError: a folder or file is missing, or a line is not KITTI's.
    """
    if unknown := [name for name in classes if name not in KINDS]:
        raise UserError(f"KITTI has no class {unknown[0]!r}; it has {', '.join(KINDS[:-1])}")
    folder = root / "training" / "label_2"
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise UserError(f"{folder} holds no label files; KITTI's training/label_2/*.txt are needed")
    images = []
    for path in files:
        try:
            if _part(path.stem) == split:
                images.append(_image(path, classes, findings))
        except UserError:
            if not skip_bad:
                raise
            findings.add("images left out that could not be read", path.stem)
    return images


def _part(name: str) -> str:
    return (*("train",) * 8, "val", "test")[derive("kitti", name) % 10]


def _image(path: Path, classes: tuple[str, ...], findings: Findings) -> Annotated:
    picture = path.parents[1] / "image_2" / f"{path.stem}.png"
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as KITTI labels: {error}") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, (x1, y1, x2, y2) = words[0], map(float, words[4:8])
        except ValueError:
            kind = None
        if kind not in KINDS:
            raise UserError(f"{path}, line {number} is no KITTI label: {line!r}")
        if kind in classes:
            rows.append((x1, y1, x2, y2, classes.index(kind) + 1, False, None))
    return annotated(picture, image_size(picture), rows, findings)
