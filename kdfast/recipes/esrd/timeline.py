"""From clean tables to days: eGFR results, first days of code sets, the day of ESRD, the index day of each
person.

All days are whole numbers since 1970-01-01; `NEVER` stands for a day that does not come.

- ESRD: the first ESRD or transplant code, or the first dialysis record that another follows 90 to 180 days
  later: acute dialysis is no ESRD. Its date may rest on later records, so it serves as the outcome only.
- Evidence of ESRD: the first code of any of the three kinds, acute or not. It can be known on the day itself,
  so it is what excludes people at an index day or landmark.
- Index day: the first code of CKD stage 3 to 5, or the second of two eGFR results below 60 that lie 90 days
  apart or more (KDIGO), whichever comes first. Both are known on that day.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from kdfast.recipes.esrd.checks import CleanTables
from kdfast.recipes.esrd.codes import INDEX_SETS, CodeBook
from kdfast.recipes.esrd.egfr import ckd_epi_2009, ckd_epi_2021
from kdfast.recipes.esrd.persons import is_black

NEVER = 10**7
CHRONIC_DAYS = 90  # KDIGO's three months, for low eGFR and for dialysis
CONFIRM_WITHIN = 180
LOW_EGFR = 60.0  # mL/min/1.73 m^2
DAY = pl.col("date").to_physical().cast(pl.Int64).alias("day")


def egfr_results(tables: CleanTables) -> pl.DataFrame:
    """Every creatinine of an adult as eGFR: row, day, egfr_2009, egfr_2021, sorted by row and day."""
    people = tables.patients.lazy().select("row", "birth", "female", is_black().alias("black"))
    found = (
        tables.events["labs"]
        .filter((pl.col("test") == "creatinine") & pl.col("value").is_not_null())
        .join(people, on="row")
        .with_columns(((pl.col("date") - pl.col("birth")).dt.total_days() / 365.25).alias("age"))
        .filter(pl.col("age") >= 18)
        .select("row", DAY, "value", "age", "female", "black")
        .collect(engine="streaming")
        .sort("row", "day")
    )
    scr, age, female, black = (found[c].to_numpy() for c in ("value", "age", "female", "black"))
    return found.select("row", "day").with_columns(
        pl.Series("egfr_2009", ckd_epi_2009(scr, age, female, black)),
        pl.Series("egfr_2021", ckd_epi_2021(scr, age, female)),
    )


def code_days(tables: CleanTables, codes: CodeBook) -> pl.DataFrame:
    """First day of each code set a person has, and every day of dialysis: row, set, day."""
    frames = []
    for name in ("diagnoses", "procedures"):
        if name not in tables.events:
            continue
        events = tables.events[name]
        pairs = events.select("system", "code").unique().collect(engine="streaming").rows()
        sets = [(system, code, s) for system, code in pairs for s in codes.sets_of(system, code)]
        wanted = pl.LazyFrame(
            sets, schema={"system": pl.String, "code": pl.String, "set": pl.String}, orient="row"
        )
        frames.append(events.join(wanted, on=["system", "code"]).select("row", "set", DAY))
    hits = pl.concat(frames)
    dialysis = hits.filter(pl.col("set") == "dialysis").unique()
    first = hits.filter(pl.col("set") != "dialysis").group_by("row", "set").agg(pl.col("day").min())
    return pl.concat([first, dialysis]).collect(engine="streaming").sort("row", "set", "day")


def first_day(days: pl.DataFrame, people: int, *sets: str) -> np.ndarray:
    """[N] first day of any of `sets`, `NEVER` for none. `days` as from `code_days`."""
    out = np.full(people, NEVER, dtype=np.int64)
    hits = days.filter(pl.col("set").is_in(sets))
    np.minimum.at(out, hits["row"].to_numpy(), hits["day"].to_numpy())
    return out


def esrd_days(days: pl.DataFrame, people: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] day of ESRD, and [N] day of the first evidence of it; see the module's text."""
    dialysis = days.filter(pl.col("set") == "dialysis").select("row", "day")
    later = dialysis.rename({"day": "later"})
    confirmed = dialysis.join(later, on="row").filter(
        (pl.col("later") - pl.col("day")).is_between(CHRONIC_DAYS, CONFIRM_WITHIN)
    )
    chronic = np.full(people, NEVER, dtype=np.int64)
    np.minimum.at(chronic, confirmed["row"].to_numpy(), confirmed["day"].to_numpy())
    sure = first_day(days, people, "esrd", "transplant")
    return np.minimum(sure, chronic), np.minimum(sure, first_day(days, people, "dialysis"))


def index_days(egfr: pl.DataFrame, days: pl.DataFrame, people: int, *, equation: int = 2021) -> np.ndarray:
    """[N] index day; `equation` is the one whose results count as low."""
    low = egfr.filter(pl.col(f"egfr_{equation}") < LOW_EGFR)
    begin = low.group_by("row").agg(pl.col("day").min().alias("begin"))
    lasting = low.join(begin, on="row").filter(pl.col("day") >= pl.col("begin") + CHRONIC_DAYS)
    index = first_day(days, people, *INDEX_SETS)
    np.minimum.at(index, lasting["row"].to_numpy(), lasting["day"].to_numpy())
    return index
