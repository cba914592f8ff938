"""report.html of `kdfast distill kd_oct`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor

from kdfast.ops.kl_div import kl_div_reference
from kdfast.recipes.common import sections
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.share import measure_share
from kdfast.recipes.kd_oct.folds import Fold
from kdfast.recipes.kd_oct.metrics import summary
from kdfast.recipes.kd_oct.results import METRICS, Results
from kdfast.recipes.kd_oct.train import Bench


def write_report(bench: Bench, results: Results, folds: Sequence[Fold]) -> None:
    """report.html."""
    data, out, options = bench.data, bench.out, bench.options
    report = Report("KD-OCT: grading by a small network", subtitle=f"{data.source} · {out.path}")
    _headline(report, results)
    report.text("", _text(bench, results, folds))
    _scores(report, results)
    _costs(report, results)
    for name in ("teacher", "distilled"):
        _matrix(report, results, name, data.classes)
    _roc(report, results, data.classes)
    _reliability(report, results)
    sections.add_curves(report, out, "val_accuracy", "Validation accuracy", ylabel="accuracy", percent=True)
    sections.add_curves(report, out, "val_loss", "Validation loss", ylabel="loss", log=True)
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    _share(report, bench, results, folds[0])
    _examples(report, bench, folds[0])
    sections.add_settings(report, options)
    report.write(out)


def _headline(report: Report, results: Results) -> None:
    means = {name: summary(results.folds_of[name], ["accuracy"])["accuracy"][0] for name in results.names()}
    tiles = {f"{sections.called(name)}, accuracy": f"{means[name]:.1%}"
             for name in ("teacher", "student", "distilled") if name in means}  # fmt: skip
    ratio = results.costs["teacher"]["parameters"] / results.costs["distilled"]["parameters"]
    gap = 100 * (means["distilled"] - means["teacher"])
    report.tiles(
        tiles | {"student minus teacher, points": f"{gap:+.1f}", "smaller by a factor of": f"{ratio:.1f}"}
    )


def _text(bench: Bench, results: Results, folds: Sequence[Fold]) -> str:
    data, sizes = bench.data, [len(part) for part in folds[0]]
    bad = f"{len(data.bad)} images could not be read and were left out. " if data.bad else ""
    count = f"{len(folds)} fold" + ("s" if len(folds) > 1 else "")
    swa = f"Averaged weights (SWA) were chosen in {results.chosen.count('swa')} of {count}. "
    patients = len(set(data.patients))
    return (
        f"{len(data.names):,} images of {patients:,} patients, {count} by patient, digest "
        f"{results.folds}. The first fold has {sizes[0]:,} training, {sizes[1]:,} validation and "
        f"{sizes[2]:,} test images. {bad}{swa}Epochs and averages were chosen on validation images; test "
        "images were looked at once, by finished networks. Not a medical device."
    )


def _scores(report: Report, results: Results) -> None:
    rows = []
    for name in results.names():
        found = summary(results.folds_of[name], METRICS)
        cells = [f"{100 * found[m][0]:.2f} ± {100 * found[m][1]:.2f}" for m in METRICS]
        rows.append((sections.called(name), *cells, len(results.folds_of[name])))
    note = (
        "Percent, mean and population standard deviation (ddof 0) over folds and seeds. Sensitivity, "
        "specificity and AUC are macro means of one class against the others; ECE is the expected "
        "calibration error."
    )
    columns = ("network", "accuracy", "sensitivity", "specificity", "AUC", "ECE", "runs")
    report.table("Cross-validation by patient", columns, rows, note=note)
    if any("extra accuracy" in found for found in results.folds_of["distilled"]):
        rows = []
        for name in results.names():
            means = (np.mean([found[f"extra {m}"] for found in results.folds_of[name]]) for m in METRICS)
            rows.append((sections.called(name), *(f"{100 * mean:.2f}" for mean in means)))
        report.table("The official test set", columns[:-1], rows, note="Mean over the networks of all folds.")


def _costs(report: Report, results: Results) -> None:
    rows = []
    for name, found in results.costs.items():
        latency = [f"{found[f'p50_ms_{n}']:.1f} / {found[f'p95_ms_{n}']:.1f}" for n in (1, 32)]
        rows.append((
            sections.called(name), f"{found['parameters']:,}", f"{found['megabytes']:.1f}",
            f"{found['multiply_adds'] / 1e6:,.1f}", *latency, f"{found['images_per_second']:,.0f}",
        ))  # fmt: skip
    gaps = "; ".join(f"{name} {gap:.1e}" for name, gap in results.parity.items())
    parity = f"Largest difference of the exported students' probabilities: {gaps}." if gaps else ""
    note = f"Measured in this run. {parity}".strip()
    columns = (
        "network",
        "parameters",
        "MB",
        "M multiply-adds",
        "ms, 1 image (p50 / p95)",
        "ms, 32 images",
        "images/s",
    )
    report.table("Size and speed", columns, rows, note=note)


def _matrix(report: Report, results: Results, name: str, classes: Sequence[str]) -> None:
    total = np.sum([np.array(found["matrix"]) for found in results.folds_of[name]], axis=0)
    shares = total / np.maximum(total.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*total.shape):
        dark = shares[row, column] > 0.5
        label = f"{total[row, column]}\n{shares[row, column]:.0%}"
        axes.text(column, row, label, ha="center", va="center", color="white" if dark else "#111827")
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="called", ylabel="true")
    axes.grid(visible=False)
    report.figure(
        f"Confusion, {sections.called(name)}", figure, note="Out-of-fold images of all folds and seeds."
    )


def _roc(report: Report, results: Results, classes: Sequence[str]) -> None:
    lines = {}
    for name in ("teacher", "distilled"):
        probabilities, labels = results.pooled(name)
        for number, label in enumerate(classes):
            x, y, _ = roc_curve(labels == number, probabilities[:, number])
            lines[f"{sections.called(name)}: {label}"] = (x.tolist(), y.tolist())
    report.curves(
        "ROC, one class against the others", lines, xlabel="1 - specificity", ylabel="sensitivity",
        note="Out-of-fold images of all folds and seeds.",
    )  # fmt: skip


def _reliability(report: Report, results: Results, bins: int = 10) -> None:
    lines: dict[str, tuple[list[float], list[float]]] = {"perfect": ([0.0, 1.0], [0.0, 1.0])}
    for name in ("teacher", "student", "distilled"):
        if name in results.folds_of:
            probabilities, labels = results.pooled(name)
            confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
            place = np.minimum((confidence * bins).astype(int), bins - 1)
            full = [b for b in range(bins) if (place == b).sum() >= 5]
            lines[sections.called(name)] = (
                [float(confidence[place == b].mean()) for b in full],
                [float(right[place == b].mean()) for b in full],
            )
    note = "Of the most probable class, in tenths of confidence with five images or more."
    report.curves("Reliability", lines, xlabel="confidence", ylabel="accuracy", note=note)


def _share(report: Report, bench: Bench, results: Results, fold: Fold) -> None:
    options, d = bench.options, results.distillers["distilled"]
    view = bench.view(fold.train[: options.batch_size], "none")
    samples = [view[i] for i in range(len(view))]
    device = options.torch_device()
    images = torch.stack([image for image, _ in samples]).to(device)
    target = torch.tensor([label for _, label in samples], device=device)

    def plain(student: Tensor, teacher: Tensor) -> Tensor:
        return kl_div_reference(student, teacher, temperature=options.temperature)

    share = bench.out.result(
        "loss-share", lambda: measure_share(d.to(device).train(), (images,), target, {"kl": plain})
    )
    note = "With a few classes the step is the teacher's forward pass and augmentation, not the loss."
    sections.add_loss_share(report, share, note=note)


def _examples(report: Report, bench: Bench, fold: Fold) -> None:
    data, shown = bench.data, []
    for label, name in enumerate(data.classes):
        rows = [row for row in fold.test if data.labels[row] == label][:3]
        shown += [(name, data.read(row).permute(1, 2, 0).numpy()) for row in rows]
    report.images("Images", shown, height=110)
