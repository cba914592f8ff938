"""Detection sets: images with boxes (and masks), resized, in torchvision's form of targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from kdfast.recipes.common.data import shared_data
from kdfast.recipes.common.dense.annotations import Annotated, Findings
from kdfast.recipes.common.dense.coco import coco_classes, decode_mask, read_coco
from kdfast.recipes.common.dense.kitti import CLASSES as KITTI_CLASSES
from kdfast.recipes.common.dense.kitti import read_kitti
from kdfast.recipes.common.dense.voc import read_voc, voc_classes
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.loaders import Readable

LAYOUTS = ("bccd", "coco", "voc", "kitti")
Sample = tuple[Tensor, dict[str, Tensor]]


class DetectionSet(Dataset):
    """Annotated images as (image [3, h, w], target).

    The image is resized so that its shorter side is `short_side`, or its longer side `long_side` if that
    would be exceeded. target, in pixels of the resized image: boxes [n, 4] float32 x1 y1 x2 y2; labels [n]
    int64, 1 ... K; iscrowd [n] int64 (none with `augment`: crowds are not trained on); image_id [1];
    size and input_size [2] int64, height and width of the file (scores are in its pixels) and of the image
    given; masks [n, h, w] uint8 with `masks`.

    Args:
        augment: flip every other image, drawn anew each time.
        cache: keep the resized images in memory (uint8).
    """

    def __init__(
        self,
        images: list[Annotated],
        classes: tuple[str, ...],
        *,
        short_side: int,
        long_side: int,
        augment: bool = False,
        masks: bool = False,
        cache: bool = False,
    ) -> None:
        self.images, self.classes = images, classes
        self._sides, self._augment, self._masks = (short_side, long_side), augment, masks
        self._kept: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's path, for messages."""
        return str(self.images[index].path)

    def __getitem__(self, index: int) -> Sample:
        entry = self.images[index]
        pixels = self._pixels(index)
        height, width = pixels.shape[:2]
        scale = np.array([width / entry.width, height / entry.height] * 2, dtype=np.float32)
        keep = ~entry.crowd if self._augment else np.ones_like(entry.crowd)
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)
        target = {
            "boxes": torch.from_numpy(entry.boxes[keep] * scale),
            "labels": torch.from_numpy(entry.labels[keep]),
            "iscrowd": torch.from_numpy(entry.crowd[keep].astype(np.int64)),
            "image_id": torch.tensor([index]),
            "size": torch.tensor([entry.height, entry.width]),
            "input_size": torch.tensor([height, width]),
        }
        if self._masks:
            target["masks"] = self._decoded(entry, keep, (height, width))
        return flipped(image, target) if self._augment and torch.rand(()) < 0.5 else (image, target)

    def _pixels(self, index: int) -> np.ndarray:
        """The resized image, uint8 [h, w, 3]."""
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        entry = self.images[index]
        with Image.open(entry.path) as file:
            if file.size != (entry.width, entry.height):
                raise ValueError(
                    f"the image is {file.width} x {file.height}, its annotation says {entry.width} x "
                    f"{entry.height}"
                )
            size = resized(entry.height, entry.width, *self._sides)
            pixels = np.asarray(file.convert("RGB").resize(size[::-1], Image.Resampling.BILINEAR))
        if self._kept is not None:
            self._kept[index] = pixels
        return pixels

    def _decoded(self, entry: Annotated, keep: np.ndarray, size: tuple[int, int]) -> Tensor:
        masks = torch.zeros(int(keep.sum()), *size, dtype=torch.uint8)
        for row, number in enumerate(np.flatnonzero(keep)):
            mask = Image.fromarray(decode_mask(entry.segments[number], entry.height, entry.width))
            masks[row] = torch.from_numpy(np.array(mask.resize(size[::-1], Image.Resampling.NEAREST)))
        return masks


def resized(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Height and width with the shorter side at `short_side` unless the longer would exceed `long_side`."""
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def flipped(image: Tensor, target: dict[str, Tensor]) -> Sample:
    """Image and target mirrored left to right."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    width = image.shape[2]
    target = target | {"boxes": torch.stack([width - x2, y1, width - x1, y2], 1)}
    if "masks" in target:
        target["masks"] = target["masks"].flip(2)
    return image.flip(2), target


def collate(samples: list[Sample]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of different sizes stay a list, as torchvision's detectors take them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


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
        layout: "bccd" (blood cells, `root` None finds them beside the project or in $KDFAST_DATA), "voc",
            "coco" (annotations/instances_{train,val}*.json or annotations/{train,val,test}.json) or "kitti".
        classes: the classes to learn, in the order of their labels; () for all that the annotations have.
        keep_empty: train on images without objects too.

    Where a folder has no labelled test images, the validation images serve, and `source` says so.

    Raises:
        UserError: a folder or file is missing or is not what it should be, in one sentence.
    """
    if layout not in LAYOUTS:
        raise UserError(f"layout {layout!r}: one of {', '.join(LAYOUTS)} is needed")
    folder = _root(layout, root)
    if masks and layout != "coco":
        raise UserError(f"layout {layout!r} has no instance masks; a COCO json has")
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
    place = "blood cells (BCCD)" if layout == "bccd" else f"{layout.upper()}, {folder.name}"
    source = place + ("" if tested else " (tested on the validation images)")
    return DetectionData(source, classes, made["train"], made["val"], made["test"], findings.sentences())


def _root(layout: str, root: str | Path | None) -> Path:
    if root is None and layout == "bccd":
        return shared_data("bccd", "BCCD")
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
    if layout == "coco":
        classes = classes or coco_classes(_coco_file(folder, "train"))

        def read(split: str) -> list[Annotated]:
            file = _coco_file(folder, split)
            return read_coco(file, _coco_images(folder, file), classes, findings, masks=masks)
    elif layout == "kitti":
        classes = classes or KITTI_CLASSES

        def read(split: str) -> list[Annotated]:
            return read_kitti(folder, split, classes, findings)
    else:
        classes = classes or voc_classes(folder)

        def read(split: str) -> list[Annotated]:
            return read_voc(folder, split, classes, findings, skip_bad=skip_bad)

    return classes, read


def _has_test(layout: str, folder: Path) -> bool:
    if layout == "coco":
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
