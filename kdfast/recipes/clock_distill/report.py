"""report.html of a CLoCKDistill run."""

from __future__ import annotations

from math import isnan, nan
from statistics import mean, stdev
from typing import Any

from torch import Tensor

from kdfast.recipes.clock_distill.detector import DetrDetector
from kdfast.recipes.clock_distill.options import Options
from kdfast.recipes.common import sections
from kdfast.recipes.common.dense.detection import DetectionData
from kdfast.recipes.common.dense.detectors import detect
from kdfast.recipes.common.dense.pictures import boxes_over, legend, row_height
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report

Scores = dict[str, list[dict[str, float]]]
SHOWN = 4  # test images with pictures
SCORE = 0.4  # of a drawn detection


def write_report(
    options: Options,
    out: RunFolder,
    data: DetectionData,
    scores: Scores,
    share: dict[str, Any],
    networks: dict[str, DetrDetector],
) -> None:
    """All sections; networks are those of the first seed."""
    report = Report(
        "CLoCKDistill: memory and target-aware queries of a DETR", subtitle=f"{data.source} · {out.path}"
    )
    found = {name: values for name, values in scores.items() if values}
    tiles = {f"{sections.called(n)}, test AP": f"{_mean(v, 'AP'):.3f}" for n, v in found.items()}
    report.tiles(tiles)
    _add_table(report, found, data, networks)
    sections.add_curves(report, out, "val_AP", "AP on the validation images", ylabel="AP")
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    sections.add_loss_share(report, share, note="Plain: boxes rasterised one by one, GIoU as a diagonal.")
    _add_pictures(report, data, networks)
    sections.add_settings(report, options)
    report.write(out)


def _mean(values: list[dict[str, float]], key: str) -> float:
    return mean(v[key] for v in values)


def _add_table(
    report: Report, scores: Scores, data: DetectionData, networks: dict[str, DetrDetector]
) -> None:
    columns = ["AP", "AP50", "AP_s", "AP_m", "AP_l"]
    rows = []
    for name, values in scores.items():
        size = sum(p.numel() for p in networks[name].parameters())
        spread = f" ± {stdev(v['AP'] for v in values):.3f}" if len(values) > 1 else ""
        means = [_mean(values, key) if key in values[0] else nan for key in columns]
        cells = ["" if isnan(value) else f"{value:.3f}" for value in means]
        rows.append((sections.called(name), f"{size:,}", cells[0] + spread, *cells[1:], len(values)))
    parts = [f"{len(part):,}" for part in (data.train, data.validation, data.test)]
    note = (
        f"COCO's AP in the pixels of the files; mean, and standard deviation of AP, over the seeds. "
        f"{parts[0]} training, {parts[1]} validation and {parts[2]} test images; the test images are looked "
        f"at once, after training. {' '.join(data.findings)}"
    )
    report.table("Results", ("network", "parameters", *columns, "seeds"), rows, note=note)
    by_class = {
        network: {name: mean(v.get(f"AP {name}", nan) for v in values) for name in data.classes}
        for network, values in scores.items()
    }
    sections.add_kinds(report, "AP by class", by_class, note="Test images, means over the seeds.")


def _add_pictures(report: Report, data: DetectionData, networks: dict[str, DetrDetector]) -> None:
    """The annotation and every network's detections on a few test images."""
    rows = range(0, len(data.test), max(1, len(data.test) // SHOWN))
    samples = [data.test[row] for row in list(rows)[:SHOWN]]
    images = [image for image, _ in samples]
    found: dict[str, list[dict[str, Tensor]]] = {"annotated": [target for _, target in samples]}
    found |= {sections.called(name): detect(network, images) for name, network in networks.items()}
    pictures = [
        (name, boxes_over(image, each[i], data.classes, threshold=SCORE))
        for i, image in enumerate(images)
        for name, each in found.items()
    ]
    note = (
        f"Test images at equal distances in the list, an image a row; detections with a score of {SCORE} and "
        f"above: {legend(data.classes)}."
    )
    height = row_height(pictures[0][1], len(found))
    report.images("Detections of the first seed's networks", pictures, height=height, note=note)
