"""How far probabilities can be trusted: expected calibration error and reliability diagrams."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from kdfast.recipes.common.report import STYLE

BINS = 10


def calibration_error(probabilities: Tensor, target: Tensor, *, bins: int = BINS) -> float:
    """ECE (Guo et al. 2017): mean |confidence - accuracy| of equal bins of confidence, by their counts."""
    classes = probabilities.shape[1]
    return float(multiclass_calibration_error(probabilities, target, classes, n_bins=bins, norm="l1"))


def reliability(probabilities: Tensor, target: Tensor, *, bins: int = BINS) -> list[tuple[float, float, int]]:
    """(mean confidence, accuracy, count) of every bin that holds a sample."""
    confidence, guess = probabilities.max(1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    right = (guess == target).double()
    found = []
    for index in range(bins):
        rows = which == index
        if rows.any():
            found.append((float(confidence[rows].mean()), float(right[rows].mean()), int(rows.sum())))
    return found


def reliability_figure(found: Mapping[str, list[tuple[float, float, int]]]) -> Figure:
    """Accuracy over confidence, one line a network; the size of a dot is its bin's count."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.plot((0, 1), (0, 1), color="#9ca3af", linestyle="--", label="calibrated")
        for name, rows in found.items():
            confidence, right, counts = zip(*rows, strict=True)
            (line,) = axes.plot(confidence, right, label=name, linewidth=1.6)
            sizes = [10 + 150 * count / sum(counts) for count in counts]
            axes.scatter(confidence, right, s=sizes, color=line.get_color())
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend()
    return figure
