"""report.html of `kdfast distill kan_student`: scores, curves, and what the student's edges have become."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.base import BaseEstimator
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.nn import KANLinear
from kdfast.recipes.common import sections
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import COLORS, STYLE, Report
from kdfast.recipes.kan_student.recipe import Options, Study, teacher_size
from kdfast.select.scores import activation_score, normalized

_SHOWN, _EDGES, _POINTS = 6, 3, 200  # features and edges of each in the figure, points of a curve


def write_report(
    out: RunFolder,
    options: Options,
    study: Study,
    teacher: BaseEstimator,
    scores: Mapping[str, Sequence[float]],
    networks: Mapping[str, nn.Module],
) -> None:
    """Write OUT/report.html."""
    table = study.table
    labels = table.task == "classification"
    metric = "accuracy" if labels else "R²"
    report = Report("A Kolmogorov-Arnold student of a table", subtitle=f"{table.name} · {out.path}")
    found = {name: list(values) for name, values in scores.items() if values}
    tiles = {f"{sections.called(n)}, test {metric}": _number(mean(v), labels) for n, v in found.items()}
    report.tiles(tiles)
    report.table("Results", *_results(options, teacher, found, networks, labels), note=_note(study, options))
    key = "val_accuracy" if labels else "val_r2"
    sections.add_curves(report, out, key, f"Validation {metric}", ylabel=metric, percent=labels)
    sections.add_terms(report, out)
    report.figure(
        "What the student sees in a feature",
        edge_curves(networks["distilled"], torch.from_numpy(study.train.x), table.columns),
        note="The strongest edges of the features that move the hidden layer most; bars: where the rows are.",
    )
    sections.add_step_times(report, out)
    sections.add_settings(report, options)
    report.write(out)


def _number(value: float, share: bool) -> str:
    return f"{value:.1%}" if share else f"{value:.3f}"


def _results(
    options: Options,
    teacher: BaseEstimator,
    scores: Mapping[str, Sequence[float]],
    networks: Mapping[str, nn.Module],
    labels: bool,
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    sizes = {"teacher": teacher_size(teacher)}
    sizes |= {name: f"{sum(p.numel() for p in net.parameters()):,}" for name, net in networks.items()}
    called = {"teacher": f"teacher, {options.teacher}"}
    rows = []
    for name, values in scores.items():
        spread = _number(stdev(values), labels) if len(values) > 1 else ""
        shown = called.get(name, sections.called(name))
        rows.append((shown, sizes[name], _number(mean(values), labels), spread, str(len(values))))
    columns = ("model", "size", "test accuracy" if labels else "test R²", "spread", "seeds")
    return columns, rows


def _note(study: Study, options: Options) -> str:
    train, validation, test = (f"{len(p.y):,}" for p in (study.train, study.validation, study.test))
    return (
        f"{train} training, {validation} validation and {test} test rows of {study.table.source}; mean and "
        "standard deviation over the seeds. The test rows are looked at once, after training. Alone and "
        "distilled start from the same weights and see the same rows in the same order."
    )


@torch.no_grad()
def edge_curves(network: nn.Module, x: Tensor, columns: Sequence[str]) -> Figure:
    """phi_ji over the range of x_i: the features with the largest mean |phi|, their strongest edges."""
    standardize, layer = network[0], network[1][0]
    z = standardize(x)
    share = normalized(activation_score(network[1], z, 1))
    strongest = layer.edge_stats(z)[0]
    shown = share.argsort(descending=True)[:_SHOWN].tolist()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        grid = figure.subplots(2, -(-len(shown) // 2), squeeze=False).flatten()
        for axes, i in zip(grid, shown, strict=False):
            low, high = np.quantile(x[:, i], (0.005, 0.995))
            points = torch.linspace(float(low), float(high), _POINTS)
            scaled = (points - standardize.mean[i]) / standardize.scale[i]
            units = strongest[:, i].argsort(descending=True)[:_EDGES].tolist()
            for color, j in zip(COLORS, units, strict=False):
                axes.plot(points, _edge(layer, scaled, j, i), color=color, linewidth=1.5)
            behind = axes.twinx()
            behind.hist(x[:, i].clamp(float(low), float(high)), bins=24, color="#9ca3af", alpha=0.3)
            behind.set_axis_off()
            axes.set_title(f"{columns[i]}  ({share[i]:.0%})", fontsize=9)
            axes.tick_params(labelsize=7)
        for axes in grid[len(shown) :]:
            axes.set_axis_off()
    return figure


def _edge(layer: KANLinear, points: Tensor, j: int, i: int) -> Tensor:
    """phi_ji at the points [P] of the scaled feature i."""
    edge = slice(j, j + 1), slice(i, i + 1)
    return KF.kan_linear(
        points[:, None],
        layer.spline_weight[edge],
        grid=layer.grid[i : i + 1],
        degree=layer.degree,
        scale=layer.spline_scaler[edge],
        base_weight=layer.base_weight[edge],
        extrapolation=layer.extrapolation,
    )[:, 0]
