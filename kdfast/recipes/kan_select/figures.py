"""The report's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kdfast.recipes.common.report import COLORS, STYLE
from kdfast.recipes.kan_select.protocol import ALL
from kdfast.recipes.kan_select.rankings import OURS
from kdfast.recipes.kan_select.summary import Results, level_mean


def by_level(
    results: Results, selectors: Sequence[str], levels: Sequence[int], metric: str, names: Mapping[str, str]
) -> Figure:
    """Mean score over the sets against the share of features kept: our selectors solid, the others dashed."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        whole = mean(level_mean(folds, ALL) for folds in results.values())
        axes.axhline(whole, color="#111827", linewidth=1.4, linestyle=":", label=names[ALL])
        for color, selector in zip(COLORS, [s for s in selectors if s != ALL], strict=False):
            y = [mean(level_mean(f, selector, level=level) for f in results.values()) for level in levels]
            style = "-" if selector in OURS else "--"
            axes.plot(levels, y, style, marker="o", color=color, linewidth=1.6, label=names[selector])
        axes.set(xlabel="features kept, %", ylabel=metric, xticks=list(levels))
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def losses(results: Results, selectors: Sequence[str], names: Mapping[str, str]) -> Figure:
    """Data sets by selectors, coloured by score minus that of all features."""
    change = np.array([
        [level_mean(folds, selector) - level_mean(folds, ALL) for selector in selectors]
        for folds in results.values()
    ])  # fmt: skip
    reach = max(float(np.abs(change).max()), 1e-3)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(6.4, 1.6 + 0.36 * len(results)), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(change, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        for row, column in np.ndindex(change.shape):
            dark = abs(change[row, column]) > 0.6 * reach
            text = f"{change[row, column]:+.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="w" if dark else "k")
        axes.set_xticks(
            range(len(selectors)), [names[s] for s in selectors], rotation=30, ha="right", fontsize=8
        )
        axes.set_yticks(range(len(results)), list(results), fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure
