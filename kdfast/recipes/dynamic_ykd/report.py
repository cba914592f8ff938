"""report.html of a Dynamic Y-KD run."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from torch import Tensor, nn

from kdfast.recipes.common import sections
from kdfast.recipes.common.dense.detection import DetectionData
from kdfast.recipes.common.dense.detectors import detect
from kdfast.recipes.common.dense.pictures import boxes_over, legend, row_height
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report
from kdfast.recipes.dynamic_ykd.evaluate import ClassAP, over
from kdfast.recipes.dynamic_ykd.options import Options
from kdfast.recipes.dynamic_ykd.scenario import Step

SHOWN = 4  # test images with pictures
MOST_LINES = 12  # of one chart
SCORE = 0.5  # of a drawn detection


@dataclass
class Findings:
    """AP of each class: of the first step's network, of every method and seed, and along the averages."""

    base: ClassAP
    methods: dict[str, list[ClassAP]] = field(default_factory=dict)
    curves: list[dict[float, ClassAP]] = field(
        default_factory=list
    )  # weight of the old head -> on validation
    chosen: list[float] = field(default_factory=list)  # the best of them on validation, for each seed

    def add(self, method: str, result: ClassAP) -> None:
        """The result of one seed."""
        self.methods.setdefault(method, []).append(result)

    def all(self) -> dict[str, list[ClassAP]]:
        """Every network in order, the first step's too."""
        return {"first step": [self.base], **self.methods}


def write_report(
    options: Options,
    out: RunFolder,
    data: DetectionData,
    all_steps: list[Step],
    found: Findings,
    networks: dict[str, nn.Module],
    share: dict[str, Any],
) -> None:
    """All sections; networks are those of the first seed, share is loss_share's."""
    old = all_steps[0].new
    new = tuple(label for label in all_steps[-1].seen if label not in old)
    report = Report(
        f"Dynamic Y-KD: {options.scenario}, one head for all tasks", subtitle=f"{data.source} · {out.path}"
    )
    report.tiles(
        {
            f"{name}, AP of {kind} classes": f"{mean(over(r['boxes'], labels) for r in results):.3f}"
            for name, results in found.methods.items()
            if name in ("fine-tuning", "Y-KD")
            for kind, labels in (("old", old), ("new", new))
        }
    )
    for kind in found.base:
        _add_table(report, kind, found, data, old, new)
    for kind in found.base:
        by_class = {name: _means(data.classes, results, kind) for name, results in found.all().items()}
        note = "Test images, means over the seeds, in the order of learning."
        sections.add_kinds(report, f"AP of {kind} by class", by_class, note=note)
    _add_curve(report, found, old, new, options)
    sections.add_curves(report, out, "val_AP", "AP of the classes so far, validation images", ylabel="AP")
    _add_terms(report, out)
    sections.add_step_times(report, out)
    sections.add_loss_share(report, share, note="Plain: the four terms as continual detectors write them.")
    _add_pictures(report, data, networks)
    sections.add_settings(report, options)
    report.write(out)


def _add_table(
    report: Report,
    kind: str,
    found: Findings,
    data: DetectionData,
    old: tuple[int, ...],
    new: tuple[int, ...],
) -> None:
    groups = {"old": old, "new": new, "all": old + new}
    rows = [("first step", f"{over(found.base[kind], old):.3f}", "", "", 1)]
    for name, results in found.methods.items():
        values = [result[kind] for result in results]
        means = [_spread([over(v, labels) for v in values]) for labels in groups.values()]
        rows.append((name, *means, len(values)))
    weights = ", ".join(f"{w:g}" for w in found.chosen)
    averaged = f"Averaged heads: the old head's weight is {weights}, best on validation. " if weights else ""
    note = (
        f"COCO's AP of {kind} on the test images after the last step, which are looked at once; mean and "
        "standard deviation over the seeds of the later steps. The first step's network was trained once. "
        f"{averaged}{' '.join(data.findings)}"
    )
    report.table(f"AP of {kind}: old, new and all classes", ("network", *groups, "seeds"), rows, note=note)


def _means(classes: tuple[str, ...], results: list[ClassAP], kind: str) -> dict[str, float]:
    """Mean AP of each class over the seeds; NaN where none occurs."""
    seeds = zip(*(result[kind] for result in results), strict=True)
    return {name: mean(column) for name, column in zip(classes, seeds, strict=True)}


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _add_curve(
    report: Report, found: Findings, old: tuple[int, ...], new: tuple[int, ...], options: Options
) -> None:
    weights = list(options.averages)
    if not weights:
        return
    lines = {
        f"{name} classes": (
            weights,
            [mean(over(curve[w]["boxes"], labels) for curve in found.curves) for w in weights],
        )
        for name, labels in {"old": old, "new": new, "all": old + new}.items()
    }
    note = (
        "Validation images, mean over the seeds. 0 is the last step's head, 1 the head before it (rows of "
        "new classes always come from the last): no training, the trade-off is chosen afterwards."
    )
    report.curves(
        "Averaging the old and the new head", lines, xlabel="weight of the old head", ylabel="AP", note=note
    )


def _add_terms(report: Report, out: RunFolder) -> None:
    """The distillation's terms of every Y-KD step."""
    names = dict.fromkeys(name for r in out.records() for name in r.get("terms", {}) if "kd_" in name)
    lines = {}
    for name in names:
        found = sections.series(out, lambda record, name=name: record.get("terms", {}).get(name))
        lines |= {f"{stage}: {name.removeprefix('kd_')}": line for stage, line in found.items()}
    if len(lines) > MOST_LINES:  # many steps: the last one stands for all
        last = max(line.partition(":")[0] for line in lines)
        lines = {label: line for label, line in lines.items() if label.startswith(last)}
    if lines:
        report.curves("Distillation, weighted", lines, ylabel="loss", log=True)


def _add_pictures(report: Report, data: DetectionData, networks: dict[str, nn.Module]) -> None:
    """The annotation and every network's detections on a few test images."""
    rows = list(range(0, len(data.test), max(1, len(data.test) // SHOWN)))[:SHOWN]
    samples = [data.test[row] for row in rows]
    images = [image for image, _ in samples]
    found: dict[str, list[dict[str, Tensor]]] = {"annotated": [target for _, target in samples]}
    found |= {name: detect(network, images) for name, network in networks.items()}
    pictures = [
        (name, boxes_over(image, _with_masks(each[i]), data.classes, threshold=SCORE))
        for i, image in enumerate(images)
        for name, each in found.items()
    ]
    note = (
        f"Test images at equal distances in the list, an image a row; detections with a score of {SCORE} and "
        f"above: {legend(data.classes)}."
    )
    height = row_height(pictures[0][1], len(found))
    report.images("Detections of the first seed's networks", pictures, height=height, note=note)


def _with_masks(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Probabilities [n, 1, H, W] as masks [n, H, W]."""
    if "masks" in found and found["masks"].dim() == 4:
        return found | {"masks": found["masks"][:, 0] > 0.5}
    return found
