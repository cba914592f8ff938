"""The brain's lobes as objects with masks, in a COCO folder of the cache: see `brain` for the slices.

An object is a connected piece of a lobe in a slice, so most lobes have two, one in each hemisphere; pieces
of fewer than SMALLEST pixels, the tips of a lobe, are background.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kdfast.recipes.common.data import cache_dir
from kdfast.recipes.common.dense import brain
from kdfast.recipes.common.folder import replacing

SMALLEST = 40  # pixels of 1 mm
VERSION = 1  # of what is written; raise it when that changes


def brain_folder() -> Path:
    """The folder, written where it is not there yet: annotations/{train,val,test}.json and images/.

    Raises:
        DataUnavailable: the slices are neither in the cache nor to be had.
        UserError: the folder cannot be written.
    """
    folder = cache_dir() / f"brain-lobes-{VERSION}"
    files = {part: folder / "annotations" / f"{part}.json" for part in brain.PARTS}
    if not all(path.is_file() for path in files.values()):
        slices = brain.slices()
        for part, path in files.items():  # the json after its pictures: what is listed is there
            content = _part(slices[part], folder / "images")
            with replacing(path) as file:
                file.write(json.dumps(content).encode())
    return folder


def _part(slices: list[tuple[int, tuple[np.ndarray, np.ndarray]]], pictures: Path) -> dict[str, Any]:
    """COCO's json of these slices; writes their pictures."""
    categories = [{"id": label, "name": name} for label, name in enumerate(brain.LOBES, 1)]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    for number, (pixels, labels) in slices:
        name = f"{number:03}.png"
        with replacing(pictures / name) as file:
            Image.fromarray(pixels).save(file, format="PNG")
        height, width = labels.shape
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        for label, mask in pieces(labels):
            content["annotations"].append(
                {"id": len(content["annotations"]), "image_id": number, "category_id": label, **_shape(mask)}
            )
    return content


def pieces(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(label, mask) of the connected pieces (8 neighbours) of each label above 0, [H, W] bool."""
    from scipy import ndimage

    found = []
    for label in np.unique(labels[labels > 0]).tolist():
        parts, count = ndimage.label(labels == label, np.ones((3, 3)))
        masks = [parts == piece for piece in range(1, count + 1)]
        found += [(label, mask) for mask in masks if mask.sum() >= SMALLEST]
    return found


def _shape(mask: np.ndarray) -> dict[str, Any]:
    """COCO's bbox, area and run lengths of a mask."""
    from pycocotools import mask as rle

    coded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "segmentation": {"size": list(mask.shape), "counts": coded["counts"].decode()},
        "bbox": rle.toBbox(coded).tolist(),
        "area": int(mask.sum()),
        "iscrowd": 0,
    }
