"""From a folder of tables, or tables in memory, to a `Cohort`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from kdfast.recipes.esrd import grid as g
from kdfast.recipes.esrd.checks import CleanTables, OnBad, check_tables
from kdfast.recipes.esrd.codes import CodeBook, load_codes
from kdfast.recipes.esrd.cohort import WINDOWS, Cohort, Funnel
from kdfast.recipes.esrd.persons import is_black
from kdfast.recipes.esrd.schema import load_schema
from kdfast.recipes.esrd.tables import readable, scan_folder, scan_frames
from kdfast.recipes.esrd.timeline import NEVER, code_days, egfr_results, esrd_days, index_days

KINDS = ("drug", "inpatient", "outpatient", "professional")


def build_cohort(
    source: str | Path | dict[str, pl.DataFrame],
    *,
    codes: str | Path | None = None,
    on_bad: OnBad = "stop",
    windows: tuple[int, ...] = WINDOWS,
    name: str = "tables",
) -> tuple[Cohort, CleanTables]:
    """The CKD cohort of `source` (a folder, or tables by name) and the checked tables with their findings.

    Raises DataError naming what is missing or wrong, with counts.
    """
    book = load_codes(codes)
    with readable("the given tables" if isinstance(source, dict) else str(source)):
        frames = scan_frames(source) if isinstance(source, dict) else scan_folder(source)
        tables = check_tables(frames, book, on_bad=on_bad)
    people = tables.patients
    egfr, days = egfr_results(tables), code_days(tables, book)
    event, evidence = esrd_days(days, len(people))
    index = index_days(egfr, days, len(people))
    rows, funnel = _admit(people, index, evidence)
    grid = g.Grid(len(rows), max(windows) // g.STEP_MONTHS, [], [])
    _add_features(grid, tables, book, egfr, days, rows, index[rows])
    cohort = Cohort(
        name=name,
        x=grid.array(),
        features=tuple(grid.features),
        people=_people(people[rows], index[rows]),
        event=_since(event[rows], index[rows]),
        evidence=_since(evidence[rows], index[rows]),
        death=_since(_days(people["death"])[rows], index[rows]),
        end=_since(_days(people["end"])[rows], index[rows]),
        index=index[rows],
        funnel=funnel,
    )
    return cohort, tables


def _admit(people: pl.DataFrame, index: np.ndarray, evidence: np.ndarray) -> tuple[np.ndarray, Funnel]:
    """Rows of patients in the cohort, and how the others fell out."""
    age = (index - _days(people["birth"])) / 365.25
    left, funnel = np.ones(len(people), bool), [("people in the tables", len(people))]
    for reason, keep in (
        ("no CKD stage 3 to 5 (neither a code nor two low eGFR 90 days apart)", index < NEVER),
        ("under 18 at the index day", age >= 18),
        ("evidence of ESRD at or before the index day", evidence > index),
    ):
        funnel.append((f"- {reason}", int((left & ~keep).sum())))
        left &= keep
    return np.flatnonzero(left), [*funnel, ("in the cohort", int(left.sum()))]


def _add_features(
    grid: g.Grid,
    tables: CleanTables,
    book: CodeBook,
    egfr: pl.DataFrame,
    days: pl.DataFrame,
    rows: np.ndarray,
    index: np.ndarray,
) -> None:
    start = g.start_frame(rows, index)
    people = tables.patients[rows]
    years = (index - _days(people["birth"])) / 365.25
    ends = (np.arange(grid.steps) + 1) * g.STEP_DAYS / 365.25
    grid.add(g.Feature("age", "demographics", "years"), years[:, None] + ends[None])
    grid.add(g.Feature("female", "demographics", flag=True), people["female"].to_numpy()[:, None])
    grid.add(
        g.Feature("black", "demographics", flag=True),
        people.select(is_black()).to_series().to_numpy()[:, None],
    )
    g.add_egfr(grid, egfr, start)
    for table, tests in (
        ("labs", ("uacr", "hemoglobin", "calcium", "phosphorus", "pth")),
        ("vitals", ("bmi", "sbp", "dbp")),
    ):
        if table in tables.events:
            units = {t: load_schema().measurements[t].unit for t in tests}
            features = {
                t: g.Feature(t, "clinical", unit, skewed=t in ("uacr", "pth")) for t, unit in units.items()
            }
            g.add_measurements(grid, tables.events[table], start, features)
    g.add_flags(grid, days, start, (*book.with_role("comorbidity"), "ckd_stage_4", "ckd_stage_5"))
    if "encounters" in tables.events:
        g.add_claims(grid, tables.events["encounters"], start, KINDS)


def _people(people: pl.DataFrame, index: np.ndarray) -> pl.DataFrame:
    age = (index - _days(people["birth"])) / 365.25
    return people.select("patient_id", "female", "race", is_black().alias("black")).with_columns(
        pl.Series("age", age)
    )


def _days(dates: pl.Series) -> np.ndarray:
    return dates.to_physical().cast(pl.Int64).fill_null(NEVER).to_numpy()


def _since(days: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.where(days >= NEVER, NEVER, days - index)
