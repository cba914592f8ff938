"""The report's figures, each a function from results to a matplotlib Figure in the house style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdfast.recipes.common.report import COLORS, STYLE
from kdfast.recipes.esrd.cohort import Funnel
from kdfast.recipes.esrd.evaluation import calibration_curve, curve_points, net_benefit
from kdfast.recipes.esrd.explain import Curve, Explanation
from kdfast.recipes.esrd.report.labels import model_name, readable
from kdfast.recipes.esrd.steps import Evaluated

Labelled = Mapping[str, Evaluated]


def _axes(height: float = 3.6, **labels: str) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.add_subplot()
    axes.set(**labels)
    return figure, axes


def funnel(steps: Funnel) -> Figure:
    """Bars of the people that remain; what was left out beside the bars."""
    remaining, rows = 0, []
    for label, count in steps:
        if label.startswith("- "):
            remaining -= count
            rows.append((label[2:], remaining, count))
        elif label.startswith("of these"):
            rows.append((label, count, 0))
        else:
            remaining = count
            rows.append((label, count, 0))
    figure, axes = _axes(0.6 + 0.36 * len(rows))
    most = max(count for _, count, _ in rows) or 1
    for i, (label, left, out) in enumerate(rows):
        axes.barh(i, left, color=COLORS[1] if label.startswith("of these") else COLORS[0], height=0.7)
        axes.barh(i, out, left=left, color="#d1d5db", height=0.7)
        axes.text(
            left + out + 0.01 * most,
            i,
            f"{left:,}" + (f"  (-{out:,})" if out else ""),
            va="center",
            fontsize=8,
        )
    axes.set_yticks(range(len(rows)), [_wrap(label) for label, _, _ in rows], fontsize=8)
    axes.set_xlim(0, 1.25 * most)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return figure


def _wrap(label: str, width: int = 34) -> str:
    words, lines = label.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def by_window(rows: Sequence[Evaluated]) -> Figure:
    """AUROC of each model by window, with intervals."""
    figure, axes = _axes(xlabel="months observed", ylabel="AUROC")
    names = list(dict.fromkeys(r.model for r in rows))
    for i, name in enumerate(names):
        own = [r for r in rows if r.model == name]
        x = np.array([r.months for r in own]) + 0.35 * (i - (len(names) - 1) / 2)
        y = np.array([r.scores["auroc"] for r in own])
        low, high = np.array([r.interval for r in own]).T
        axes.errorbar(
            x, y, yerr=[y - low, high - y], marker="o", capsize=2, linewidth=1.4, label=model_name(name)
        )
    axes.set_xticks(sorted({r.months for r in rows}))
    axes.legend(fontsize=8, ncols=2)
    return figure


def roc(rows: Labelled) -> Figure:
    """ROC curves."""
    figure, axes = _axes(xlabel="1 - specificity", ylabel="sensitivity")
    axes.plot([0, 1], [0, 1], color="#9ca3af", linewidth=1, linestyle="--")
    for label, row in rows.items():
        x, y = curve_points(row.task.y, row.found.p, row.task.weight)["roc"]
        axes.plot(x, y, linewidth=1.6, label=f"{label}: {row.scores['auroc']:.3f}")
    axes.legend(title="AUROC", fontsize=8, loc="lower right")
    return figure


def pr(rows: Labelled) -> Figure:
    """Precision-recall curves."""
    figure, axes = _axes(xlabel="sensitivity (recall)", ylabel="precision")
    for label, row in rows.items():
        x, y = curve_points(row.task.y, row.found.p, row.task.weight)["pr"]
        axes.plot(x, y, linewidth=1.6, label=f"{label}: {row.scores['auprc']:.3f}")
    axes.legend(title="AUPRC", fontsize=8)
    return figure


def calibration(rows: Labelled) -> Figure:
    """Observed against predicted risk in tenths of the people."""
    figure, axes = _axes(xlabel="predicted risk", ylabel="observed risk")
    top = 0.0
    for label, row in rows.items():
        x, y = calibration_curve(row.task.y, row.found.p, row.task.weight)
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.4, label=label)
        top = max(top, *x, *y)
    axes.plot([0, top], [0, top], color="#9ca3af", linewidth=1, linestyle="--")
    axes.legend(fontsize=8)
    return figure


def decision(rows: Labelled) -> Figure:
    """Net benefit of acting on each model, on everybody, on nobody."""
    figure, axes = _axes(xlabel="risk above which one would act", ylabel="net benefit")
    prevalence = max(float(np.average(r.task.y, weights=r.task.weight)) for r in rows.values())
    thresholds = np.linspace(0.01, min(0.9, 4 * prevalence), 60)
    for label, row in rows.items():
        found = net_benefit(row.task.y, row.found.p, row.task.weight, thresholds=thresholds)
        axes.plot(thresholds, found["model"], linewidth=1.6, label=label)
    axes.plot(thresholds, found["everybody"], color="#9ca3af", linewidth=1.2, label="everybody")
    axes.axhline(0, color="#111827", linewidth=1, label="nobody")
    axes.set_ylim(-0.25 * prevalence, 1.1 * prevalence)
    axes.legend(fontsize=8)
    return figure


def beeswarm(found: Explanation, *, top: int = 12) -> Figure:
    """One dot a person and feature: its Shapley value, coloured by the feature's value among people."""
    names = list(found.importance())[:top]
    figure, axes = _axes(0.7 + 0.32 * len(names), xlabel=f"Shapley value ({found.unit}; right: more risk)")
    draw = np.random.default_rng(0)
    for i, name in enumerate(names):
        column = found.names.index(name)
        value = found.data[:, column]
        rank = np.full(len(value), 0.5)
        known = np.isfinite(value)
        if known.any():
            rank[known] = value[known].argsort().argsort() / max(known.sum() - 1, 1)
        colour = np.where(known[:, None], matplotlib.colormaps["coolwarm"](rank), (0.7, 0.7, 0.7, 1.0))
        axes.scatter(
            found.values[:, column], i + draw.uniform(-0.28, 0.28, len(value)), s=7, c=colour, linewidths=0
        )
    axes.axvline(0, color="#9ca3af", linewidth=1)
    axes.set_yticks(range(len(names)), [readable(name) for name in names], fontsize=8)
    axes.invert_yaxis()
    return figure


def over_time(values: np.ndarray, names: Sequence[str], months: int, *, top: int = 12) -> Figure:
    """Mean size of the attributions [n, T, F] by feature and step."""
    size = np.abs(values).mean(0).T  # [F, T]
    order = np.argsort(-size.sum(1))[:top]
    figure, axes = _axes(0.9 + 0.3 * len(order), xlabel="months since the index day")
    image = axes.imshow(size[order], aspect="auto", cmap="Blues")
    step = months // size.shape[1]
    axes.set_xticks(
        range(size.shape[1]), [f"{step * t}-{step * (t + 1)}" for t in range(size.shape[1])], fontsize=8
    )
    axes.set_yticks(range(len(order)), [names[i] for i in order], fontsize=8)
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="mean |attribution| (log odds)")
    return figure


def bars(values: Mapping[str, float], xlabel: str, *, top: int = 12) -> Figure:
    """Horizontal bars, largest first."""
    shown = sorted(values.items(), key=lambda item: -item[1])[:top]
    figure, axes = _axes(0.8 + 0.28 * len(shown), xlabel=xlabel)
    axes.barh([name for name, _ in shown], [value for _, value in shown], height=0.65)
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    return figure


def curves(found: Sequence[Curve]) -> Figure:
    """One panel a curve; two dots for a yes-or-no feature."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 2.1 * -(-len(found) // 3)), layout="constrained")
        panels = figure.subplots(-(-len(found) // 3), 3, sharey=True, squeeze=False).ravel()
    for axes, curve in zip(panels, found, strict=False):
        if curve.flag:
            axes.plot([0, 1], np.interp([0, 1], curve.x, curve.y), "o:", linewidth=1)
            axes.set_xticks([0, 1], ["no", "yes"])
            axes.set_xlim(-0.4, 1.4)
        else:
            axes.plot(curve.x, curve.y, linewidth=1.8)
            axes.set_xlabel(curve.unit, fontsize=8)
        axes.axhline(0, color="#9ca3af", linewidth=0.8)
        axes.set_title(_wrap(readable(curve.name), 22), fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supylabel("change of the log odds", fontsize=8)
    return figure
