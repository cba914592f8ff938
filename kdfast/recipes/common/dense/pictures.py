"""Predictions drawn over images: arrays uint8 [H, W, 3] for Report.images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

PAGE = 900  # pixels of a report's page for a row of pictures
# Where a hue's name ends; the first nine colours of the palette have names of their own.
_HUES = {0.06: "red", 0.15: "orange", 0.3: "lime", 0.42: "green", 0.55: "cyan", 0.7: "blue"}
_HUES |= {0.8: "violet", 0.93: "magenta", 1.0: "pink"}


def _hue(number: int) -> float:
    return (0.02 + number * 0.61803) % 1


def palette(count: int) -> list[tuple[int, int, int]]:
    """`count` well separated colours."""
    hues = map(_hue, range(count))
    return [tuple(round(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.85, 0.95)) for hue in hues]


def legend(classes: Sequence[str]) -> str:
    """Which class has which colour of the palette, "cat red, dog blue"; only the names of more than nine."""
    if len(classes) > len(_HUES):
        return ", ".join(classes)
    colors = [next(name for end, name in _HUES.items() if _hue(i) < end) for i in range(len(classes))]
    return ", ".join(f"{name} {color}" for name, color in zip(classes, colors, strict=True))


def row_height(picture: np.ndarray, columns: int) -> int:
    """The height at which `columns` such pictures are one row of a report."""
    height, width = picture.shape[:2]
    return int(PAGE / columns * height / width)


def boxes_over(
    image: Tensor,
    found: dict[str, Tensor],
    classes: tuple[str, ...],
    *,
    threshold: float = 0.4,
    zoom: int = 2,
) -> np.ndarray:
    """Boxes (and masks) with a score of at least `threshold`, or all where there are no scores.

    image: [3, H, W] in [0, 1]; found: boxes [n, 4] in its pixels, labels [n] from 1, maybe scores, masks.
    """
    keep = found["scores"] >= threshold if "scores" in found else torch.ones(len(found["labels"])).bool()
    pixels = _zoomed(image, zoom)
    colors = palette(len(classes))
    boxes, labels = found["boxes"][keep] * zoom, found["labels"][keep]
    own = [colors[int(label) - 1] for label in labels]
    if len(labels) and "masks" in found:
        masks = found["masks"][keep].float().view(len(labels), 1, *image.shape[1:])
        masks = F.interpolate(masks, scale_factor=zoom, mode="nearest")[:, 0] > 0.5
        pixels = draw_segmentation_masks(pixels, masks, alpha=0.45, colors=own)
    if len(labels):
        pixels = draw_bounding_boxes(pixels, boxes, colors=own, width=2)
    return pixels.permute(1, 2, 0).numpy()


def labels_over(image: Tensor, labels: Tensor, classes: int, *, zoom: int = 2) -> np.ndarray:
    """Class colours over the image; class 0 and unlabelled pixels (255) stay as they are.

    labels: [H, W] int64.
    """
    masks = torch.stack([labels == label for label in range(1, classes)])
    drawn = draw_segmentation_masks(
        (image.clamp(0, 1) * 255).byte(), masks, alpha=0.6, colors=palette(classes - 1)
    )
    return _zoomed(drawn, zoom).permute(1, 2, 0).numpy()


def heat_over(image: Tensor, weights: Tensor, *, zoom: int = 2, alpha: float = 0.6) -> np.ndarray:
    """A map of weights [h, w] of any size over the image: from its least, blue, to its most, yellow."""
    size = tuple(image.shape[1:])
    weights = F.interpolate(weights[None, None].float(), size=size, mode="bilinear", align_corners=False)[
        0, 0
    ]
    low, high = weights.min(), weights.max()
    scaled = ((weights - low) / (high - low).clamp(min=1e-6)).numpy()
    color = torch.from_numpy(colormaps["viridis"](scaled)[..., :3].astype(np.float32)).permute(2, 0, 1)
    gray = image.mean(0, keepdim=True).expand(3, -1, -1)
    return _zoomed((1 - alpha) * gray + alpha * color, zoom).permute(1, 2, 0).numpy()


def _zoomed(image: Tensor, zoom: int) -> Tensor:
    """uint8 [3, zoom H, zoom W]; pixels are repeated."""
    if image.dtype != torch.uint8:
        image = (image.clamp(0, 1) * 255).byte()
    return image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
