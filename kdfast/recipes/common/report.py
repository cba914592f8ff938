"""report.html: one file with text, tables, curves and pictures, readable without a network.

report = Report("Knowledge distillation", subtitle="runs/kd")
report.tiles({"student": "96.1 %", "distilled": "97.0 %"})
report.curves("Validation accuracy", {"student": ([1, 2], [0.8, 0.9])}, ylabel="accuracy")
report.write(out)
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kdfast.recipes.common.folder import REPORT, RunFolder

COLORS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#a16207", "#475569", "#db2777")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "axes.edgecolor": "#9ca3af",
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "kdfast",  # the same figure gives the same file
}


class Report:
    """Sections in the order in which they are added."""

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self._title, self._subtitle = title, subtitle
        self._sections: list[dict[str, Any]] = []

    def _add(self, kind: str, heading: str, **content: Any) -> None:
        self._sections.append({"kind": kind, "heading": heading, **content})

    def text(self, heading: str, *paragraphs: str) -> None:
        """Plain paragraphs; markup in them is shown as written."""
        self._add("text", heading, paragraphs=paragraphs)

    def tiles(self, values: Mapping[str, str], *, heading: str = "") -> None:
        """Few large numbers with their labels."""
        self._add("tiles", heading, values=dict(values))

    def table(
        self,
        heading: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        half: bool = False,
        note: str = "",
    ) -> None:
        """Rows of printable cells; the first column is left-aligned, the others right-aligned.

        half: as wide as a figure, half the page.
        """
        cells = [list(row) for row in rows]
        self._add("table half" if half else "table", heading, columns=list(columns), rows=cells, note=note)

    def facts(self, heading: str, values: Mapping[str, Any], *, note: str = "") -> None:
        """Many small name-value pairs, closely set."""
        self._add("facts", heading, values=dict(values), note=note)

    def curves(
        self,
        heading: str,
        lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        *,
        xlabel: str = "epoch",
        ylabel: str = "",
        log: bool = False,
        percent: bool = False,
        note: str = "",
    ) -> None:
        """One chart; `lines` maps a label to its x and y values. percent: y is a share in [0, 1]."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(6.4, 3.4), layout="constrained")
            axes = figure.add_subplot()
            for label, (x, y) in lines.items():
                axes.plot(x, y, label=label, linewidth=1.8, marker="o" if len(x) < 3 else None)
            axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
            axes.xaxis.set_major_locator(MaxNLocator(integer=xlabel == "epoch"))
            if percent:
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.legend()
            self.figure(heading, figure, note=note)

    def stack(
        self, heading: str, bars: Mapping[str, Mapping[str, float]], *, xlabel: str, note: str = ""
    ) -> None:
        """Horizontal bars of parts: bar label -> part -> length. A part has one colour in every bar."""
        parts = list(dict.fromkeys(part for values in bars.values() for part in values))
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(6.4, 1.4 + 0.45 * len(bars)), layout="constrained")
            axes = figure.add_subplot()
            left = dict.fromkeys(bars, 0.0)
            for part in parts:
                widths = [bars[bar].get(part, 0.0) for bar in bars]
                axes.barh(list(bars), widths, left=list(left.values()), label=part, height=0.6)
                left = {bar: left[bar] + width for bar, width in zip(bars, widths, strict=True)}
            _finish_stack(axes, xlabel)
            self.figure(heading, figure, note=note)

    def figure(self, heading: str, figure: Figure, *, note: str = "") -> None:
        """Any matplotlib figure."""
        buffer = io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        self._add("figure", heading, source=_inline(buffer.getvalue(), "svg+xml"), note=note)

    def images(
        self, heading: str, pictures: Iterable[tuple[str, Any]], *, height: int = 96, note: str = ""
    ) -> None:
        """(caption, picture) pairs: arrays [H, W] or [H, W, 3], uint8 or floats in [0, 1]."""
        shown = [{"caption": caption, "source": _png(pixels)} for caption, pixels in pictures]
        self._add("images", heading, pictures=shown, height=height, note=note)

    def html(self) -> str:
        """The whole page."""
        loader = jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text("utf-8"))
        page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return page.get_template("report.html.j2").render(
            title=self._title, subtitle=self._subtitle, sections=self._sections
        )

    def write(self, out: RunFolder) -> None:
        """Write OUT/report.html, which marks the run as finished."""
        out.write(REPORT, self.html())


def _finish_stack(axes: Axes, xlabel: str) -> None:
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(xlabel)
    axes.figure.legend(ncols=5, loc="outside upper right", columnspacing=1.2, handlelength=1)


def _png(pixels: Any) -> str:
    import numpy as np
    from PIL import Image

    array = np.asarray(pixels)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return _inline(buffer.getvalue(), "png")


def _inline(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
