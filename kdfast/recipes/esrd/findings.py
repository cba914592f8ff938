"""What checks say: a `Rule` marks bad rows, a `Finding` counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

Effect = Literal["stop", "exclude", "note", "kept"]


@dataclass(frozen=True)
class Rule:
    """Rows for which `bad` is true have `problem`. Such rows are always left out of what is computed.

    `effect` says whether that needs the person's consent: "exclude" does (`on_bad`), "note" does not,
    "stop" means that no consent helps.
    """

    problem: str
    bad: pl.Expr
    effect: Effect = "exclude"


@dataclass(frozen=True)
class Finding:
    """`count` of `total` rows of `table` have `problem`; "kept" rows are used all the same, as it says."""

    table: str
    problem: str
    count: int
    total: int
    effect: Effect = "exclude"

    def __str__(self) -> str:
        return f"{self.table}: {self.count:,} of {self.total:,} rows {self.problem}"


def apply_rules(
    table: str, frame: pl.LazyFrame, rules: list[Rule]
) -> tuple[pl.LazyFrame, list[Finding], int]:
    """`frame` without the rows any rule marks, the findings, the rows read; counted in one streaming pass."""
    marks = [rule.bad.fill_null(False) for rule in rules]
    counts = frame.select(
        pl.len().alias("total"), *(mark.sum().alias(str(i)) for i, mark in enumerate(marks))
    )
    total, *found = counts.collect(engine="streaming").row(0)
    findings = [
        Finding(table, rule.problem, int(n), total, rule.effect)
        for rule, n in zip(rules, found, strict=True)
        if n
    ]
    return frame.filter(~pl.any_horizontal(marks)), findings, total
