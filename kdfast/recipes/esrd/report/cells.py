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


def stage(name: str) -> str:
    """ "gru-distilled-0" -> "GRU, distilled" (seed 0), "GRU, distilled, seed 1"."""
    kind, *rest = name.split("-")
    if not rest:
        return kind
    way, seed = rest
    return f"{kind.upper()}, {way}" + (f", seed {seed}" if seed != "0" else "")
