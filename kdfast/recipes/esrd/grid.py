"""From records to a grid of features: x[person, step, feature], steps of three months that begin at the
index day.

A record falls into step floor((day - index day) / STEP_DAYS). The window of W months is the first W / 3
steps and nothing else: cells of a step are computed from records of that step and of earlier ones only, so
cutting the grid at a window shows nothing that happened later. Measurements without a record are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from kdfast.recipes.esrd.timeline import DAY, first_day

MONTH_DAYS = 30.4375
STEP_MONTHS = 3
STEP_DAYS = STEP_MONTHS * MONTH_DAYS
MIN_SPREAD = 30 / 365.25  # years; eGFR results closer together (in deviation) give no slope worth having

Source = Literal["clinical", "claims", "demographics"]


@dataclass(frozen=True)
class Feature:
    """A column of the grid. `skewed` asks scale-sensitive models to take log(1 + x)."""

    name: str
    source: Source
    unit: str = ""
    skewed: bool = False
    flag: bool = False


@dataclass
class Grid:
    """x [N, T, F] float32 with its features; `add` appends one [N, T]."""

    people: int
    steps: int
    features: list[Feature]
    columns: list[np.ndarray]

    def add(self, feature: Feature, values: np.ndarray) -> None:
        self.features.append(feature)
        self.columns.append(np.broadcast_to(values, (self.people, self.steps)).astype(np.float32))

    def array(self) -> np.ndarray:
        return np.stack(self.columns, axis=-1)


def step_of(index: pl.Expr) -> pl.Expr:
    """The step of a record's day relative to `index`; negative before it."""
    return ((pl.col("day") - index) / STEP_DAYS).floor().cast(pl.Int64).alias("step")


def add_measurements(
    grid: Grid, events: pl.LazyFrame, start: pl.DataFrame, features: dict[str, Feature]
) -> None:
    """Mean of each test in `features` per step; `events` has row, date, test, value."""
    means = (
        _in_steps(events, start, grid.steps)
        .filter(pl.col("test").is_in(list(features)) & pl.col("value").is_not_null())
        .group_by("cell", "step", "test")
        .agg(pl.col("value").mean())
        .collect(engine="streaming")
    )
    for test, feature in features.items():
        part = means.filter(pl.col("test") == test)
        grid.add(feature, _fill(grid, part, "value", np.nan))


def add_egfr(grid: Grid, egfr: pl.DataFrame, start: pl.DataFrame) -> None:
    """Mean eGFR per step and its slope up to the step's end, by both equations."""
    found = egfr.join(start, on="row").with_columns(step_of(pl.col("index")))
    found = found.filter(pl.col("step").is_between(0, grid.steps - 1))
    found = found.with_columns(((pl.col("day") - pl.col("index")) / 365.25).alias("t"))
    for year in ("2009", "2021"):
        y, t = pl.col(f"egfr_{year}"), pl.col("t")
        sums = found.group_by("cell", "step").agg(
            pl.len().alias("n"),
            y.sum().alias("y"),
            t.sum().alias("t"),
            (t * t).sum().alias("tt"),
            (t * y).sum().alias("ty"),
        )
        n, sy, st, stt, sty = (_fill(grid, sums, c, 0.0) for c in ("n", "y", "t", "tt", "ty"))
        with np.errstate(invalid="ignore", divide="ignore"):
            grid.add(Feature(f"egfr_{year}", "clinical", "mL/min/1.73 m2"), np.where(n > 0, sy / n, np.nan))
            n, sy, st, stt, sty = (np.cumsum(a, axis=1) for a in (n, sy, st, stt, sty))
            spread = n * stt - st**2
            slope = np.where(spread > (n * MIN_SPREAD) ** 2, (n * sty - st * sy) / spread, np.nan)
        grid.add(Feature(f"egfr_slope_{year}", "clinical", "mL/min/1.73 m2/year"), slope)


def add_flags(
    grid: Grid, days: pl.DataFrame, start: pl.DataFrame, names: Sequence[str], source: Source = "claims"
) -> None:
    """1 from the step in which a set's first code falls, earlier history included; 0 before.

    `days` has row, set, day as from `timeline.code_days`.
    """
    rows, index = start["row"].to_numpy(), start["index"].to_numpy()
    people = int(max(rows.max(initial=0), days["row"].max() or 0)) + 1
    ends = (np.arange(grid.steps) + 1) * STEP_DAYS
    for name in names:
        first = first_day(days, people, name)[rows]
        grid.add(Feature(name, source, flag=True), (first - index)[:, None] < ends[None])


def add_claims(grid: Grid, events: pl.LazyFrame, start: pl.DataFrame, kinds: tuple[str, ...]) -> None:
    """Number of claims and their cost per step and kind; 0 where there is none."""
    sums = (
        _in_steps(events, start, grid.steps)
        .group_by("cell", "step", "kind")
        .agg(pl.len().alias("n"), pl.col("cost").sum())
        .collect(engine="streaming")
    )
    for kind in kinds:
        part = sums.filter(pl.col("kind") == kind)
        grid.add(Feature(f"n_{kind}", "claims", "claims"), _fill(grid, part, "n", 0.0))
        grid.add(Feature(f"cost_{kind}", "claims", "USD", skewed=True), _fill(grid, part, "cost", 0.0))


def start_frame(rows: np.ndarray, index: np.ndarray) -> pl.DataFrame:
    """row (in patients), cell (in the grid) and index day of the people of a cohort."""
    return pl.DataFrame(
        {
            "row": rows.astype(np.uint32),
            "cell": np.arange(len(rows), dtype=np.uint32),
            "index": index.astype(np.int64),
        }
    )


def _in_steps(events: pl.LazyFrame, start: pl.DataFrame, steps: int) -> pl.LazyFrame:
    frame = events.with_columns(DAY).join(start.lazy(), on="row").with_columns(step_of(pl.col("index")))
    return frame.filter(pl.col("step").is_between(0, steps - 1))


def _fill(grid: Grid, part: pl.DataFrame, column: str, empty: float) -> np.ndarray:
    """[N, T] float64 of a frame with cell, step and `column`."""
    out = np.full((grid.people, grid.steps), empty)
    out[part["cell"].to_numpy(), part["step"].to_numpy()] = part[column].to_numpy()
    return out
