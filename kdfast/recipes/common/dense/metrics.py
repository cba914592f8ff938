"""Average precision as COCO counts it (pycocotools), and mean intersection over union."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.detection import MeanAveragePrecision

from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.detectors import detect

NAMES = {"map": "AP", "map_50": "AP50", "map_75": "AP75", "map_small": "AP_s", "map_medium": "AP_m"}
NAMES |= {"map_large": "AP_l"}


def average_precision(
    *, masks: bool = False, per_class: bool = False, shared: bool = False
) -> MeanAveragePrecision:
    """The metric; `update` it with `in_file_pixels`. Areas: s < 32^2 <= m < 96^2 <= l.

    shared: the images of all processes count together, as in validation; else each process for itself.
    """
    kind = ("bbox", "segm") if masks else "bbox"
    metric = MeanAveragePrecision(
        iou_type=kind, backend="pycocotools", class_metrics=per_class, sync_on_compute=shared
    )
    metric.warn_on_many_detections = False  # like COCO, it takes the best 100 of an image
    return metric


def in_file_pixels(
    detections: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Detections and targets with boxes in pixels of the image's file; masks stay at the resized size.

    NaN or infinite boxes of a network that diverged are dropped, so that the score is defined.
    """
    found, wanted = [], []
    for detection, target in zip(detections, targets, strict=True):
        scale = (target["size"] / target["input_size"]).flip(0).repeat(2).to(target["boxes"].device)
        good = detection["boxes"].isfinite().all(1) & detection["scores"].isfinite()
        keys = [key for key in ("boxes", "labels", "scores") if key in detection]
        found.append({key: detection[key][good] for key in keys})
        found[-1]["boxes"] = found[-1]["boxes"] * scale
        wanted.append({"boxes": target["boxes"] * scale, "labels": target["labels"]})
        wanted[-1]["iscrowd"] = target["iscrowd"]
        if "masks" in detection and "masks" in target:
            found[-1]["masks"] = detection["masks"][good, 0] > 0.5
            wanted[-1]["masks"] = target["masks"].bool()
    return found, wanted


def scores(metric: MeanAveragePrecision, classes: tuple[str, ...] = ()) -> dict[str, float]:
    """{"AP": ..., "AP50": ..., "AP_s": ..., "AP class": ...} in [0, 1]; NaN where nothing of the kind occurs.

    classes: names, for a metric with per_class.
    """
    result = metric.compute()
    values = {name: _share(result[key]) for key, name in NAMES.items() if key in result}
    if classes and result["map_per_class"].numel() == result["classes"].numel() > 0:
        for label, value in zip(result["classes"].view(-1), result["map_per_class"].view(-1), strict=True):
            values[f"AP {classes[int(label) - 1]}"] = _share(value)
    return values


def _share(value: Tensor) -> float:
    return float(value) if value >= 0 else float("nan")  # pycocotools says -1 where it has nothing to count


def evaluate_detector(
    network: nn.Module, samples: Dataset, classes: tuple[str, ...], *, batch_size: int = 8
) -> dict[str, float]:
    """AP and its kind of `network` on all samples; runs where the network is."""
    metric = average_precision(per_class=True)
    for images, targets in DataLoader(samples, batch_size=batch_size, collate_fn=collate):
        metric.update(*in_file_pixels(detect(network, images), targets))
    return scores(metric, classes)


def mean_iou(classes: int, *, average: str = "macro", shared: bool = False) -> MulticlassJaccardIndex:
    """The mean over classes of intersection over union, pixels counted over the whole set.

    A class that occurs neither in the labels nor in the predictions is left out of the mean.

    Args:
        average: "macro", or "none" for a value of each class.
        shared: see `average_precision`.
    """
    return MulticlassJaccardIndex(
        classes, average=average, ignore_index=255, validate_args=False, sync_on_compute=shared
    )


@torch.no_grad()
def evaluate_segmenter(
    network: nn.Module, samples: Dataset, classes: tuple[str, ...], *, batch_size: int = 8
) -> dict[str, float]:
    """{"mIoU": ..., "IoU class": ...} of `network`, whose output has the logits under "out"."""
    metric, mean = mean_iou(len(classes), average="none"), mean_iou(len(classes))
    device = next(network.parameters()).device
    network.eval()
    for images, labels in DataLoader(samples, batch_size=batch_size):
        found: Any = network(images.to(device))["out"].argmax(1).cpu()
        metric.update(found, labels)
        mean.update(found, labels)
    values = {"mIoU": float(mean.compute())}
    return values | {f"IoU {name}": float(v) for name, v in zip(classes, metric.compute(), strict=True)}
