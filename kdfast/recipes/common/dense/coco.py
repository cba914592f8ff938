"""COCO json: boxes, masks and crowds of one split, read without the network or a cache."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from kdfast.recipes.common.dense.annotations import Annotated, Findings, annotated
from kdfast.recipes.common.errors import UserError

_NEEDED = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name")}
_NEEDED["annotations"] = ("image_id", "category_id", "bbox")


def read_coco(
    annotation_file: Path,
    images: Path,
    classes: tuple[str, ...],
    findings: Findings,
    *,
    masks: bool = False,
) -> list[Annotated]:
    """Every image of the file, those without objects too.

    Args:
        images: the folder that `file_name` is relative to.
        classes: names to keep, in the order of their labels; the file must know each of them, objects of
            its other categories are left out.
        masks: also read the segmentations; every object must then have one.

    Raises:
        UserError: the file is not COCO json, or its parts do not fit together.
    """
    content = load_json(annotation_file)
    names = {each["id"]: each["name"] for each in content["categories"]}
    if unknown := [name for name in classes if name not in names.values()]:
        raise UserError(
            f"{annotation_file} has no category {unknown[0]!r}; it has {', '.join(names.values())}"
        )
    label = {key: classes.index(name) + 1 for key, name in names.items() if name in classes}
    known = {each["id"]: (each["height"], each["width"]) for each in content["images"]}
    rows: dict[Any, list] = defaultdict(list)
    for each in content["annotations"]:
        where = f"{annotation_file}: annotation {each.get('id', '?')}"
        if not isinstance(each["image_id"], (int, str)) or each["image_id"] not in known:
            raise UserError(f"{where} belongs to image {each['image_id']!r}, which the file does not list")
        if not isinstance(each["category_id"], (int, str)) or each["category_id"] not in names:
            raise UserError(f"{where} has category {each['category_id']!r}, which the file does not list")
        if each["category_id"] in label:
            size = known[each["image_id"]] if masks else None
            rows[each["image_id"]].append(_row(each, label[each["category_id"]], where, size))
    return [
        annotated(images / each["file_name"], (each["height"], each["width"]), rows[each["id"]], findings,
                  masks=masks)
        for each in content["images"]
    ]  # fmt: skip


def coco_classes(annotation_file: Path) -> tuple[str, ...]:
    """Category names, by category id."""
    categories = sorted(load_json(annotation_file)["categories"], key=lambda each: each["id"])
    return tuple(each["name"] for each in categories)


def load_json(path: Path) -> dict[str, Any]:
    """The file's content, checked to be COCO's. Raises UserError."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as COCO json: {error}") from error
    for part, keys in _NEEDED.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise UserError(f"{path} is no COCO annotation file: it has no list {part!r}")
        for each in content[part]:
            if missing := [key for key in keys if not isinstance(each, dict) or key not in each]:
                raise UserError(f"{path}: an entry of {part!r} lacks {missing[0]!r}")
    for part in ("images", "categories"):
        _unique(path, part, [each["id"] for each in content[part]])
    _unique(path, "categories", [each["name"] for each in content["categories"]], "name")
    for each in content["images"]:
        if not all(isinstance(each[side], int) and each[side] > 0 for side in ("height", "width")):
            raise UserError(f"{path}: image {each['id']!r} needs a height and a width of whole pixels")
        if not isinstance(each["file_name"], str):
            found = each["file_name"]
            raise UserError(f"{path}: file_name of image {each['id']!r} must be text, got {found!r}")
    return content


def _unique(path: Path, part: str, values: list[Any], key: str = "id") -> None:
    """Every entry of a part needs its own id (a whole number, or text) or its own name (text)."""
    kinds = str if key == "name" else (int, str)
    if odd := [value for value in values if not isinstance(value, kinds)]:
        wanted = "text" if key == "name" else "a whole number or text"
        raise UserError(f"{path}: an entry of {part!r} has {key} {odd[0]!r}; {wanted} is needed")
    if len({type(value) for value in values}) > 1:
        raise UserError(f"{path}: the ids of {part!r} are numbers and text; one kind is needed")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise UserError(f"{path}: {part!r} has two entries with {key} {twice!r}")


def decode_mask(segment: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons or run lengths) as a uint8 mask [height, width]."""
    from pycocotools import mask as rle

    if isinstance(segment, list):
        segment = rle.merge(rle.frPyObjects(segment, height, width))
    elif isinstance(segment["counts"], list):
        segment = rle.frPyObjects(segment, height, width)
    return rle.decode(segment)


def _check_segment(segment: Any, size: tuple[int, int], where: str) -> None:
    """Polygons of three corners and more, or run lengths of the image's height and width."""
    if not segment:
        raise UserError(f"{where} has no segmentation, and masks are needed")
    if isinstance(segment, dict):
        if "counts" not in segment or segment.get("size") != list(size):
            raise UserError(f"{where}: run lengths need counts and size {list(size)}, got {segment!r:.80}")
    elif not isinstance(segment, list) or not all(map(_is_polygon, segment)):
        raise UserError(f"{where}: polygons [x1, y1, x2, y2, x3, y3, ...] or run lengths are needed as masks")


def _is_polygon(values: Any) -> bool:
    numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
    return numbers and len(values) >= 6 and len(values) % 2 == 0


def _row(each: dict[str, Any], label: int, where: str, size: tuple[int, int] | None) -> tuple:
    """What `annotated` takes; size: of the image, if its masks are needed."""
    box = each["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        raise UserError(f"{where} has bbox {box!r}; [x, y, width, height] is needed")
    segment = each.get("segmentation")
    if size is not None:
        _check_segment(segment, size, where)
    x, y, width, height = box
    return x, y, x + width, y + height, label, bool(each.get("iscrowd", 0)), segment
