"""report.html of `kdfast distill nd_detection`: AP, curves, step times, pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kdfast.recipes.common import sections
from kdfast.recipes.common.dense.detection import DetectionData
from kdfast.recipes.common.dense.detectors import detect
from kdfast.recipes.common.dense.pictures import boxes_over
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report
from kdfast.recipes.nd_detection.options import Options


def write_report(
    options: Options,
    out: RunFolder,
    data: DetectionData,
    scores: dict[str, list[dict[str, float]]],
    networks: dict[str, nn.Module],
    share: dict[str, Any],
) -> None:
    """Write OUT/report.html.

    Args:
        scores: name -> AP and AP50 of every seed. networks: of the first seed.
        share: of the losses; see share.loss_share.
    """
    kd, nd = options.weights()
    report = Report(
        f"Norm and direction in Faster R-CNN: {options.method}", subtitle=f"{data.source} · {out.path}"
    )
    report.text(
        "",
        f"Weights: {options.method} {kd:g}, ND {nd:g}, T {options.temperature:g}. " + " ".join(data.findings),
    )
    rows = []
    for name, found in scores.items():
        if found:
            values = [torch.tensor([each[key] for each in found]) for key in ("AP", "AP50")]
            cells = [f"{v.mean():.1%}" + (f" ± {v.std():.1%}" if len(v) > 1 else "") for v in values]
            size = sum(parameter.numel() for parameter in networks[name].parameters())
            rows.append((sections.called(name), f"{size:,}", *cells, len(found)))
    note = f"Test images, mean and standard deviation over seeds; {len(data.test)} images, looked at once."
    report.table("Results", ("network", "parameters", "AP", "AP50", "seeds"), rows, note=note)
    sections.add_curves(report, out, "val_AP50", "Validation AP50", ylabel="AP50", percent=True)
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    sections.add_loss_share(report, share, note="The terms kd and nd, on the sampled regions of one batch.")
    report.images("Detections of the distilled student", _pictures(networks["distilled"], data), height=180)
    sections.add_settings(report, options)
    report.write(out)


def _pictures(student: nn.Module, data: DetectionData, count: int = 4) -> list[tuple[str, Any]]:
    shown = []
    for index in range(min(count, len(data.test))):
        image, _ = data.test[index]
        shown.append((f"image {index}", boxes_over(image, detect(student, [image])[0], data.classes)))
    return shown
