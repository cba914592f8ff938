"""AP of each class, for boxes and masks, and its means over old, new and all classes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from statistics import mean

from torch import nn
from torch.utils.data import DataLoader, Dataset

from kdfast.recipes.common.dense.detection_set import collate
from kdfast.recipes.common.dense.detectors import detect
from kdfast.recipes.common.dense.metrics import average_precision, in_file_pixels

ClassAP = dict[str, list[float]]  # "boxes" (and "masks") -> AP of class 1, 2, ...; NaN where none occurs


def class_precisions(
    network: nn.Module, samples: Dataset, num_classes: int, *, masks: bool = False, batch_size: int = 8
) -> ClassAP:
    """COCO's AP, over IoU 0.5 ... 0.95, of each class on all samples; runs where the network is."""
    metric = average_precision(masks=masks, per_class=True)
    for images, targets in DataLoader(samples, batch_size=batch_size, collate_fn=collate):
        metric.update(*in_file_pixels(detect(network, images), targets))
    result = metric.compute()
    classes = result["classes"].view(-1).tolist()
    found: ClassAP = {}
    for kind, prefix in {"boxes": "bbox_" if masks else "", "masks": "segm_"}.items():
        if kind == "boxes" or masks:
            values = dict(zip(classes, result[f"{prefix}map_per_class"].view(-1).tolist(), strict=True))
            values = {label: value for label, value in values.items() if value >= 0}  # -1: none to find
            found[kind] = [values.get(label, nan) for label in range(1, num_classes + 1)]
    return found


def over(precisions: Sequence[float], labels: Sequence[int]) -> float:
    """Mean AP of the classes with these labels; those that do not occur are left out."""
    values = [precisions[label - 1] for label in labels if not isnan(precisions[label - 1])]
    return mean(values) if values else nan
