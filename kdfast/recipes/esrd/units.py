"""Units of laboratory values: conversion, plausible ranges, and the search for values in a unit they do not
claim.

A few implausible values are entry errors and can be left out with the person's consent. When more than
`MIX_UP` of a test's values are, the unit is wrong, and no option makes the recipe go on: a creatinine of 90
"mg/dL" is 90 umol/L, and only the person can say so.
"""

from __future__ import annotations

import polars as pl

from kdfast.recipes.esrd.findings import Finding
from kdfast.recipes.esrd.schema import Measurement, load_schema

MIX_UP = 0.05  # share of implausible values from which on a unit is taken to be wrong


def converted(frame: pl.LazyFrame) -> pl.LazyFrame:
    """`frame` with test and unit normalised, `value` in the schema's unit, and factor, low, high of each
    row's test.

    factor is null where the unit is not known for that test, low where the test itself is not known.
    """
    rows = [(m.name, u, f) for m in load_schema().measurements.values() for u, f in m.factors.items()]
    factors = pl.LazyFrame(rows, schema=["test", "unit", "factor"], orient="row")
    ranges = pl.LazyFrame(
        [(m.name, *m.plausible) for m in load_schema().measurements.values()],
        schema=["test", "low", "high"],
        orient="row",
    )
    unit = pl.col("unit").str.replace_all("[\u00b5\u03bc]", "u").str.replace_all(" ", "").str.to_lowercase()
    frame = frame.with_columns(pl.col("test").str.strip_chars().str.to_lowercase(), unit)
    frame = frame.join(ranges, on="test", how="left").join(factors, on=["test", "unit"], how="left")
    return frame.with_columns((pl.col("value") * pl.col("factor")).alias("value"))


def implausible() -> pl.Expr:
    """Marks rows of a `converted` frame whose value lies outside the range of its test."""
    value = pl.col("value")
    return ~value.is_between("low", "high") | value.is_nan() | value.is_infinite()


def check_units(table: str, frame: pl.LazyFrame) -> list[Finding]:
    """Units that a test does not have (effect "stop"), values that do not fit their unit ("stop" if many)."""
    raw = pl.col("value") / pl.col("factor")
    groups = (
        frame.filter(pl.col("low").is_not_null())
        .group_by("test", "unit", "factor")
        .agg(
            pl.col("value").count().alias("count"),
            pl.len().alias("rows"),
            implausible().sum().alias("bad"),
            raw.filter(implausible()).min().alias("least"),
            raw.filter(implausible()).max().alias("most"),
        )
        .sort("test", "unit", nulls_last=True)
        .collect(engine="streaming")
    )
    findings = []
    for g in groups.iter_rows(named=True):
        m = load_schema().measurements[g["test"]]
        if g["factor"] is None and g["unit"] is not None:
            problem = f"give {m.name} in {g['unit']!r}, which is none of {', '.join(m.factors)}"
            findings.append(Finding(table, problem, g["rows"], g["rows"], "stop"))
        elif g["bad"]:
            effect = "stop" if g["bad"] > MIX_UP * g["count"] else "exclude"
            findings.append(Finding(table, _wrong_unit(frame, m, g), g["bad"], g["count"], effect))
    return findings


def _wrong_unit(frame: pl.LazyFrame, m: Measurement, group: dict) -> str:
    """Says which other unit would put most of the implausible values into the plausible range."""
    raw = pl.col("value") / pl.col("factor")
    others = [u for u, f in m.factors.items() if f != group["factor"]]
    inside = [(raw * m.factors[u]).is_between(*m.plausible).mean().alias(u) for u in others]
    here = frame.filter((pl.col("test") == m.name) & (pl.col("unit") == group["unit"]) & implausible())
    shares = here.select(pl.lit(0.0).alias("-"), *inside).collect(engine="streaming").row(0, named=True)
    best = max(shares, key=lambda unit: shares[unit] or 0.0)
    guess = (
        f"; they look like {best} ({shares[best]:.0%} of them would be plausible)"
        if (shares[best] or 0) > 0.5
        else ""
    )
    low, high = (bound / group["factor"] for bound in m.plausible)
    return (
        f"with {m.name} in {group['unit']} lie outside {low:.3g} to {high:.3g} "
        f"(smallest {group['least']:.3g}, largest {group['most']:.3g}){guess}: correct the unit column"
    )
