"""The parts of a detection set, read from a folder: `detection_data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdfast.recipes.common.data import shared_data
from kdfast.recipes.common.dense import brain
from kdfast.recipes.common.dense.annotations import Annotated, Findings
from kdfast.recipes.common.dense.brain_instances import brain_folder
from kdfast.recipes.common.dense.coco import coco_classes, read_coco
from kdfast.recipes.common.dense.detection_set import DetectionSet
from kdfast.recipes.common.dense.kitti import CLASSES as KITTI_CLASSES
from kdfast.recipes.common.dense.kitti import read_kitti
from kdfast.recipes.common.dense.voc import read_voc, voc_classes
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.loaders import Readable

LAYOUTS = ("bccd", "brain", "coco", "voc", "kitti")
WITH_MASKS = ("brain", "coco")
PLACES = {"bccd": "blood cells (BCCD)", "brain": brain.SOURCE}


@dataclass
class DetectionData:
    """The parts of a data set. `findings`: what was corrected or left out, in sentences."""

    source: str
    classes: tuple[str, ...]
    train: Readable
    validation: Readable
    test: Readable
    findings: list[str]


def detection_data(
    layout: str,
    root: str | Path | None,
    *,
    short_side: int,
    long_side: int,
    classes: tuple[str, ...] = (),
    masks: bool = False,
    skip_bad: bool = False,
    cache: bool = False,
    keep_empty: bool = True,
) -> DetectionData:
    """Train, validation and test images of a folder.

    Args:
        layout: "bccd" (blood cells, `root` None finds them beside the project or in $KDFAST_DATA), "brain"
            (lobes with masks, no folder: see brain_instances), "voc", "coco"
            (annotations/instances_{train,val}*.json or annotations/{train,val,test}.json) or "kitti".
        classes: the classes to learn, in the order of their labels; () for all that the annotations have.
        keep_empty: train on images without objects too.

    Where a folder has no labelled test images, the validation images serve, and `source` says so.

    Raises:
        UserError: a folder or file is missing or is not what it should be, in one sentence.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r}: one of {', '.join(LAYOUTS)} is needed")
    folder = _root(layout, root)
    if masks and layout not in WITH_MASKS:
        raise UserError(f"layout {layout!r} has no instance masks; a COCO json has")
    if twice := [name for name in classes if classes.count(name) > 1]:
        raise UserError(f"class {twice[0]!r} is named twice; every class has one label")
    findings = Findings()
    classes, read = _reader(layout, folder, classes, findings, masks, skip_bad)
    parts = {split: read(split) for split in ("train", "val")}
    tested = _has_test(layout, folder)
    parts["test"] = read("test") if tested else parts["val"]
    if not keep_empty:
        parts["train"] = [image for image in parts["train"] if len(image.boxes)]
    if empty := [split for split, images in parts.items() if not images]:
        raise UserError(f"{folder}: part {empty[0]!r} of the {layout} data has no image")
    made = {}
    for split, images in parts.items():
        view = DetectionSet(
            images, classes, short_side=short_side, long_side=long_side, augment=split == "train",
            masks=masks, cache=cache,
        )  # fmt: skip
        made[split] = Readable(view, view.name, skip_bad=skip_bad)
        findings.add(f"damaged {split} images left out", (made[split].bad or [""])[0], len(made[split].bad))
    place = PLACES.get(layout, f"{layout.upper()}, {folder.name}")
    source = place + ("" if tested else " (tested on the validation images)")
    return DetectionData(source, classes, made["train"], made["val"], made["test"], findings.sentences())


def _root(layout: str, root: str | Path | None) -> Path:
    if root is None and layout == "bccd":
        return shared_data("bccd", "BCCD")
    if layout == "brain":
        return brain_folder()
    if root is None:
        raise UserError(f"layout {layout!r} needs the folder of the data set (--data-root)")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; the folder of a {layout} data set is needed")
    return folder


def _reader(
    layout: str,
    folder: Path,
    classes: tuple[str, ...],
    findings: Findings,
    masks: bool,
    skip_bad: bool,
) -> tuple[tuple[str, ...], Callable[[str], list[Annotated]]]:
    """The classes, and split -> its images."""
    if layout in WITH_MASKS:
        classes = classes or coco_classes(_coco_file(folder, "train"))

        def read(split: str) -> list[Annotated]:
            file = _coco_file(folder, split)
            return read_coco(file, _coco_images(folder, file), classes, findings, masks=masks)
    elif layout == "kitti":
        classes = classes or KITTI_CLASSES

        def read(split: str) -> list[Annotated]:
            return read_kitti(folder, split, classes, findings, skip_bad=skip_bad)
    else:
        classes = classes or voc_classes(folder)

        def read(split: str) -> list[Annotated]:
            return read_voc(folder, split, classes, findings, skip_bad=skip_bad)

    return classes, read


def _has_test(layout: str, folder: Path) -> bool:
    if layout in WITH_MASKS:
        return (folder / "annotations" / "test.json").is_file()
    return layout == "kitti" or (folder / "ImageSets" / "Main" / "test.txt").is_file()


def _coco_file(folder: Path, split: str) -> Path:
    """annotations/SPLIT.json, or COCO's own instances_SPLIT2017.json."""
    names = [folder / "annotations" / f"{split}.json"]
    names += sorted((folder / "annotations").glob(f"instances_{split}*.json"))
    for path in names:
        if path.is_file():
            return path
    raise UserError(f"{folder / 'annotations'} has neither {split}.json nor instances_{split}*.json")


def _coco_images(folder: Path, file: Path) -> Path:
    """The folder of a split's images: named like it, or `images`."""
    for name in (file.stem.removeprefix("instances_"), f"images/{file.stem}", "images"):
        if (folder / name).is_dir():
            return folder / name
    raise UserError(f"{folder} has no folder of images for {file.name}; {file.stem} or images is needed")
