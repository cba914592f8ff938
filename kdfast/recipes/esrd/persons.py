"""The patients table: one clean row a person, with a row number that every later step uses instead of the
id.
"""

from __future__ import annotations

import polars as pl

from kdfast.recipes.esrd.findings import Finding, Rule, apply_rules
from kdfast.recipes.esrd.tables import UNREADABLE

MAX_AGE = 120  # years; the oldest person on record reached 122
DAYS_PER_YEAR = 365.25


def is_black() -> pl.Expr:
    """Whether the 2009 equation's race term applies: "black", "Black or African American", ..."""
    return pl.col("race").str.contains(r"\b(black|african.american)\b")


def clean_patients(frame: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame, list[Finding]]:
    """-> the clean rows, the patient_id of people left out, and the findings.

    Columns of the first: patient_id, row, birth, death, end (dates), female (bool), race (lower case). Rows
    that repeat a person word for word count once; people with conflicting rows are left out altogether.
    """
    frame = frame.rename({"birth_date": "birth", "death_date": "death", "followup_end": "end"})
    frame = frame.with_columns(
        pl.col("sex").str.strip_chars().str.to_lowercase(),
        pl.col("race").str.strip_chars().str.to_lowercase().fill_null("unknown"),
        pl.int_range(pl.len()).over("patient_id").alias("copy"),
    )
    words = ["patient_id", "birth", "death", "end", "sex", "race"]
    frame = frame.with_columns(
        pl.struct(words).n_unique().over("patient_id").alias("versions"),
    )
    everybody = frame.collect()
    kept, findings, _ = apply_rules("patients", everybody.lazy(), _rules(everybody.columns))
    columns = ["patient_id", "birth", "death", "end", (pl.col("sex") == "f").alias("female"), "race"]
    clean = kept.select(columns).collect().with_row_index("row")
    out = everybody.select("patient_id").unique().join(clean, on="patient_id", how="anti")
    if nameless := int((clean["race"] == "unknown").sum()):
        findings.append(Finding("patients", "have no race, taken as not Black", nameless, len(clean), "kept"))
    return clean, out, findings


def _rules(present: list[str]) -> list[Rule]:
    oldest = pl.min_horizontal("death", "end")
    age = (oldest - pl.col("birth")).dt.total_days() / DAYS_PER_YEAR
    unreadable = [
        UNREADABLE + c for c in ("birth_date", "death_date", "followup_end") if UNREADABLE + c in present
    ]
    rules = [
        Rule(f"have a {mark.removeprefix(UNREADABLE)} that is no date", pl.col(mark)) for mark in unreadable
    ]
    read = ~pl.any_horizontal(*unreadable) if unreadable else pl.lit(True)
    return [
        *rules,
        Rule("have no patient_id", pl.col("patient_id").is_null()),
        Rule(
            "have no birth_date or no followup_end",
            (pl.col("birth").is_null() | pl.col("end").is_null()) & read,
        ),
        Rule("repeat a person word for word", (pl.col("versions") == 1) & (pl.col("copy") > 0)),
        Rule("are duplicate patients with conflicting entries", pl.col("versions") > 1),
        Rule("have a sex other than F, M", ~pl.col("sex").is_in(["f", "m"]) | pl.col("sex").is_null()),
        Rule("die before birth", pl.col("death") < pl.col("birth")),
        Rule("have their follow-up end before birth", pl.col("end") < pl.col("birth")),
        Rule(f"have an impossible age (over {MAX_AGE} years)", age > MAX_AGE),
    ]
