"""ND: knowledge distillation that regularises feature norm and direction (Wang et al., ECCV 2024).

    loss = CE(s, y) + w(epoch) kd L_kd + nd L_nd        L_nd = mean of 1 - <f, c/|c|> / max(|f|, |g|)
    w(epoch) = min(1, epoch / warmup)

f, g: embeddings of student and teacher, c: the teacher's mean embedding of the sample's class. L_kd is KL
(KD++), DKD, DIST or ReviewKD's; the same without ND are the methods kd, dkd, dist, reviewkd. A teacher, a
student alone and a student for each of --method are trained and compared over seeds; --preset NAME sets
networks, weights and schedule of a pair of the paper (CIFAR-100, ImageNet, DeiT). Importable:

    adapter    EmbeddingAdapter: the student's embedding in the teacher's width
    review     ReviewKD: attention-based fusion of stages (ABF) under the hierarchical context loss (HCL)
    means      class_means: the teacher's mean embedding of every class
    methods    distiller: a student under KD++, DKD++, DIST++, ReviewKD++ or their plain forms
    deit       DeiT++: hard distillation token, mixup and cutmix, mixed class means
    presets    the published weights and schedules
    detection  NDDetector: Faster R-CNN, run by `kdfast distill nd_detection`
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Options": "options",
    "run": "recipe",
    "EmbeddingAdapter": "adapter",
    "ReviewKD": "review",
    "ABF": "review",
    "class_means": "means",
    "distiller": "methods",
    "Weights": "methods",
    "METHODS": "methods",
    "PRESETS": "presets",
    "deit_distiller": "deit",
    "Mixup": "deit",
    "NDDetector": "detection",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names come from their modules when they are asked for: the modules alone need no Lightning."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
