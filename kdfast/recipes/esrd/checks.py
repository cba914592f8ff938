"""Checks of contents: every bad row is counted under its problem, then stopped at or left out, never
dropped silently.

One expression marks the rows of a problem and serves both uses, so what is counted is what is left out.
Every table is read in streaming passes. `on_bad="stop"` raises DataError with all findings;
`on_bad="exclude"` leaves the rows out and keeps the counts for the report. Wrong units stop in either case:
the recipe never guesses a unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from kdfast.recipes.esrd.codes import CodeBook
from kdfast.recipes.esrd.findings import Finding, Rule, apply_rules
from kdfast.recipes.esrd.persons import clean_patients
from kdfast.recipes.esrd.schema import Table, load_schema
from kdfast.recipes.esrd.tables import UNREADABLE, DataError
from kdfast.recipes.esrd.units import check_units, converted, implausible

OnBad = Literal["stop", "exclude"]


@dataclass
class CleanTables:
    """`patients` in memory, one row a person; the event tables lazy, without bad rows; all findings.

    Event tables hold `row` (the person's number in patients), `date`, and the table's own columns.
    """

    patients: pl.DataFrame
    events: dict[str, pl.LazyFrame]
    findings: list[Finding] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)  # read from each table


def check_tables(frames: dict[str, pl.LazyFrame], codes: CodeBook, *, on_bad: OnBad = "stop") -> CleanTables:
    """Check `frames` (see tables.py) and return what can be used. Raises DataError as the module says."""
    if on_bad not in ("stop", "exclude"):
        raise ValueError(f"on_bad must be 'stop' or 'exclude', got {on_bad!r}")
    patients, left_out, findings = clean_patients(frames["patients"])
    people = pl.concat(
        [patients.select("patient_id", "row", "birth", "death", "end"), left_out], how="diagonal"
    ).with_columns(pl.lit(True).alias("listed"))
    events, rows = {}, {"patients": frames["patients"].select(pl.len()).collect().item()}
    for name, frame in frames.items():
        if name != "patients":
            table = load_schema().tables[name]
            events[name], new, rows[name] = _check_events(table, _with_person(frame, people), codes)
            findings += new
    stops = [f for f in findings if f.effect == "stop" or (f.effect == "exclude" and on_bad == "stop")]
    if stops:
        raise DataError(f"the tables hold {len(stops)} problems: " + "; ".join(str(f) for f in stops))
    return CleanTables(patients, events, findings, rows)


def _with_person(frame: pl.LazyFrame, people: pl.DataFrame) -> pl.LazyFrame:
    """`frame` with listed, row, birth, death and end of its person; null where patients does not list the
    person.
    """
    if (
        frame.collect_schema()["patient_id"] != people.schema["patient_id"]
    ):  # numbers in one file, text in the other
        people = people.with_columns(pl.col("patient_id").cast(pl.String))
        frame = frame.with_columns(pl.col("patient_id").cast(pl.String))
    return frame.join(people.lazy(), on="patient_id", how="left")


def _check_events(
    table: Table, frame: pl.LazyFrame, codes: CodeBook
) -> tuple[pl.LazyFrame, list[Finding], int]:
    rules, units = [], []
    if "unit" in table.columns:
        frame = converted(frame)
        units = check_units(table.name, frame)
        rules = [
            Rule("are of a test the recipe does not use", pl.col("low").is_null(), "note"),
            Rule("have no result", pl.col("value").is_null() & pl.col("factor").is_not_null(), "note"),
            Rule("", implausible()),  # check_units tells more about them
        ]
    if "code" in table.columns:
        frame, examples = _mark_codes(frame, codes)
        rules = [Rule(f"have a code their system does not know{examples}", ~pl.col("known"))]
    if "cost" in table.columns:
        frame = frame.with_columns(pl.col("kind").str.strip_chars().str.to_lowercase())
        frame = _mark_repeats(frame, [c for c in table.columns if c in frame.collect_schema()])
        rules = [
            Rule("have a negative cost", pl.col("cost") < 0),
            Rule("repeat another row word for word", pl.col("repeats")),
        ]
    rules = _common_rules(table, frame.collect_schema().names()) + rules
    clean, findings, total = apply_rules(table.name, frame, rules)
    own = [c for c in table.columns if c not in ("patient_id", "unit")]
    return clean.select("row", *own), [f for f in findings if f.problem] + units, total


def _common_rules(table: Table, present: list[str]) -> list[Rule]:
    """Rules for any event table. A row may have several problems and is counted under each."""
    rules = [
        Rule("belong to nobody in patients", pl.col("listed").is_null()),
        Rule("belong to people left out of patients", pl.col("row").is_null() & pl.col("listed"), "note"),
    ]
    for column in table.columns.values():
        cell, unreadable = pl.col(column.name), UNREADABLE + column.name
        read = ~pl.col(unreadable) if unreadable in present else pl.lit(True)
        if unreadable in present:
            rules.append(Rule(f"have a {column.name} that is no {column.type}", pl.col(unreadable)))
        if not (column.nullable or column.optional):
            rules.append(Rule(f"have no {column.name}", cell.is_null() & read))
        if column.values:
            rules.append(
                Rule(
                    f"have a {column.name} other than {', '.join(column.values)}", ~cell.is_in(column.values)
                )
            )
    return rules + [
        Rule("are dated before birth", pl.col("date") < pl.col("birth")),
        Rule("are dated after death", pl.col("date") > pl.col("death")),
        Rule("are dated after the end of follow-up", pl.col("date") > pl.col("end")),
    ]


def _mark_codes(frame: pl.LazyFrame, codes: CodeBook) -> tuple[pl.LazyFrame, str]:
    """`frame` with the mark `known`, and the commonest unknown codes as text."""
    kinds = frame.group_by("system", "code").len().sort("len", descending=True).collect(engine="streaming")
    pairs = kinds.select("system", "code").rows()
    known = [bool(system and code and codes.known(system, code)) for system, code in pairs]
    kinds = kinds.with_columns(pl.Series("known", known, dtype=pl.Boolean))
    worst = kinds.filter(~pl.col("known")).head(3)
    examples = ", ".join(f"{s} {c!r} {n:,} times" for s, c, n in worst.select("system", "code", "len").rows())
    frame = frame.join(kinds.lazy().drop("len"), on=["system", "code"], how="left", nulls_equal=True)
    return frame, f" ({examples})" if examples else ""


def _mark_repeats(frame: pl.LazyFrame, columns: list[str]) -> pl.LazyFrame:
    """`frame` with the mark `repeats` on the second and later copies of a claim, which would double its cost.

    The copies are found through 64-bit hashes of the rows: a claim in 10^12 may be taken for a copy by
    chance.
    """
    return frame.with_columns(pl.struct(columns).hash().is_first_distinct().not_().alias("repeats"))
