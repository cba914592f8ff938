"""Numbers as the report's tables show them: a dash where there is none."""

from __future__ import annotations

import math


def number(value: float | None, digits: int = 3) -> str:
    """0.8123 -> "0.812"."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def interval(pair: tuple[float, float]) -> str:
    """(0.8, 0.9) -> "0.800-0.900", with a dash at which no line breaks."""
    return f"{number(pair[0])}\u2060\u2013\u2060{number(pair[1])}"


def share(value: float) -> str:
    """0.123 -> "12.3%"."""
    return "-" if not math.isfinite(value) else f"{value:.1%}"


def share_within(value: float, pair: tuple[float, float]) -> str:
    """0.38, (0.25, 0.52) -> "38% (25-52)"."""
    if not math.isfinite(value):
        return "-"
    ends = "\u2060\u2013\u2060".join(f"{100 * v:.0f}" if math.isfinite(v) else "?" for v in pair)
    return f"{value:.0%} ({ends})"


def difference(value: float, pair: tuple[float, float]) -> str:
    """0.02, (-0.003, 0.058) -> "+0.020 (-0.003 to +0.058)"."""
    return f"{value:+.3f} ({pair[0]:+.3f} to {pair[1]:+.3f})"


def stage(name: str) -> str:
    """ "gru-distilled-0" -> "GRU, distilled" (seed 0), "GRU, distilled, seed 1"."""
    kind, *rest = name.split("-")
    if not rest:
        return kind
    way, seed = rest
    return f"{kind.upper()}, {way}" + (f", seed {seed}" if seed != "0" else "")
