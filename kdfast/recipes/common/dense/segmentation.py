"""The parts of a segmentation set, read from a VOC, Cityscapes or plain folder, or of a brain atlas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from kdfast.recipes.common.dense import brain
from kdfast.recipes.common.dense.segmentation_set import IGNORED, Labelled, Loaded, SegmentationSet
from kdfast.recipes.common.dense.voc import EXTENSIONS, find_image, split_names
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.loaders import Readable

LAYOUTS = ("brain", "voc", "cityscapes", "folder")
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
CITYSCAPES = {  # label id of gtFine -> class; the other ids are not counted
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car",
    27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip


@dataclass
class SegmentationData:
    """The parts of a data set. `findings`: what was left out, in sentences."""

    source: str
    classes: tuple[str, ...]
    train: Readable
    validation: Readable
    test: Readable
    findings: list[str]


def segmentation_data(
    layout: str,
    root: str | Path | None,
    *,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    scales: tuple[float, float] = (0.5, 2.0),
    skip_bad: bool = False,
) -> SegmentationData:
    """Train, validation and test images.

    Args:
        layout: "brain" (no folder: fetched), "voc" (JPEGImages, SegmentationClass,
            ImageSets/Segmentation), "cityscapes" (leftImg8bit, gtFine) or "folder" (classes.txt;
            images/PART and labels/PART with PART train, val and maybe test; labels: PNGs of class numbers).
        size, crop, scales: see SegmentationSet.

    Where there are no labelled test images, the validation images serve, and `source` says so.

    Raises:
        UserError: a folder or file is missing or is not what it should be, in one sentence.
    """
    classes, parts, source = _read(layout, root)
    if "test" not in parts:
        parts["test"], source = parts["val"], f"{source} (tested on the validation images)"
    made, findings = {}, []
    for part, samples in parts.items():
        if not samples:
            raise UserError(f"{source}: part {part!r} has no image")
        own = {"crop": crop, "scales": scales, "augment": True} if part == "train" else {}
        view = SegmentationSet(samples, classes, size=size, **own)
        made[part] = Readable(view, view.name, skip_bad=skip_bad)
        if bad := made[part].bad:
            findings.append(f"{len(bad)} damaged {part} images left out (first: {bad[0]}).")
    return SegmentationData(source, classes, made["train"], made["val"], made["test"], findings)


def _read(layout: str, root: str | Path | None) -> tuple[tuple[str, ...], dict[str, list[Labelled]], str]:
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r}: one of {', '.join(LAYOUTS)} is needed")
    if layout == "brain":
        slices = brain.slices()
        parts = {
            part: [Labelled(f"coronal slice {number}", partial(_given, *arrays)) for number, arrays in each]
            for part, each in slices.items()
        }
        return brain.CLASSES, parts, brain.SOURCE
    if root is None:
        raise UserError(f"layout {layout!r} needs the folder of the data set (--data-root)")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; the folder of a {layout} data set is needed")
    classes, parts = {"voc": _voc, "cityscapes": _cityscapes, "folder": _folder}[layout](folder)
    return classes, parts, f"{layout}, {folder.name}"


def _given(pixels: np.ndarray, labels: np.ndarray) -> Loaded:
    return pixels, labels


def load_pair(image: Path, labels: Path, table: tuple[int, ...] | None = None) -> Loaded:
    """An image and its labels; `table` maps the file's 256 values to classes."""
    with Image.open(image) as file:
        pixels = np.asarray(file.convert("RGB"))
    with Image.open(labels) as file:
        if file.mode not in ("L", "P"):
            raise ValueError(f"{labels} has mode {file.mode}; an 8-bit PNG of class numbers is needed")
        values = np.asarray(file)
    return pixels, values if table is None else np.array(table, dtype=np.uint8)[values]


def _pairs(images: list[Path], labels: list[Path], table: tuple[int, ...] | None = None) -> list[Labelled]:
    for path in labels:
        if not path.is_file():
            raise UserError(f"{path} is missing; every image needs its labels")
    pairs = zip(images, labels, strict=True)
    return [Labelled(str(image), partial(load_pair, image, own, table)) for image, own in pairs]


def _voc(root: Path) -> tuple[tuple[str, ...], dict[str, list[Labelled]]]:
    parts = {}
    for part in ("train", "val"):
        names = split_names(root, part, "Segmentation")
        images = [find_image(root / "JPEGImages", name) for name in names]
        parts[part] = _pairs(images, [root / "SegmentationClass" / f"{name}.png" for name in names])
    return VOC_CLASSES, parts


def _cityscapes(root: Path) -> tuple[tuple[str, ...], dict[str, list[Labelled]]]:
    table = [IGNORED] * 256
    for number, label in enumerate(CITYSCAPES):
        table[label] = number
    parts = {}
    for part in ("train", "val"):
        images = sorted((root / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
        if not images:
            raise UserError(f"{root / 'leftImg8bit' / part} holds no CITY/*_leftImg8bit.png")
        stems = [(image.parent.name, image.name.removesuffix("_leftImg8bit.png")) for image in images]
        labels = [root / "gtFine" / part / city / f"{stem}_gtFine_labelIds.png" for city, stem in stems]
        parts[part] = _pairs(images, labels, tuple(table))
    return tuple(CITYSCAPES.values()), parts


def _folder(root: Path) -> tuple[tuple[str, ...], dict[str, list[Labelled]]]:
    names = root / "classes.txt"
    if not names.is_file():
        raise UserError(f"{names} is missing; it names the classes, one a line, number 0 first")
    classes = tuple(line.strip() for line in names.read_text("utf-8").splitlines() if line.strip())
    parts = {}
    for part in ("train", "val", "test"):
        folder = root / "images" / part
        if part == "test" and not folder.is_dir():
            continue
        images = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in EXTENSIONS]
        if not images:
            raise UserError(f"{folder} holds no image ({', '.join(EXTENSIONS)})")
        parts[part] = _pairs(images, [root / "labels" / part / f"{path.stem}.png" for path in images])
    return classes, parts
