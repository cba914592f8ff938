"""Who is served how well: subgroups, equalized odds, reclassification between equations, misclassified
people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.egfr import STAGES, kdigo_stage
from kdfast.recipes.esrd.evaluation.cv import Predictions
from kdfast.recipes.esrd.evaluation.metrics import at_threshold, auroc, bootstrap
from kdfast.recipes.esrd.models.summary import summarise

AGE_BANDS = (0, 55, 65, 75, 200)
MIN_GROUP = 20  # people; smaller groups are listed by size only


@dataclass(frozen=True)
class Subgroup:
    """Results in one group; NaN where it is too small or has one class only. The interval is at 95 %."""

    attribute: str
    group: str
    people: int
    prevalence: float
    auroc: float
    auroc_interval: tuple[float, float]
    fnr: float
    fnr_interval: tuple[float, float]
    fpr: float
    fpr_interval: tuple[float, float]
    observed_to_expected: float


def groups_of(people: pl.DataFrame) -> dict[str, np.ndarray]:
    """Attribute -> group of each person [n], for the attributes that are known."""
    found = {}
    if "female" in people.columns:
        found["sex"] = np.where(people["female"].to_numpy(), "female", "male")
    if "race" in people.columns and people["race"].n_unique() > 1:
        found["race"] = people["race"].fill_null("unknown").to_numpy().astype(str)
    if "age" in people.columns:
        age = people["age"].fill_null(np.nan).to_numpy()
        band = np.where(np.isnan(age), len(AGE_BANDS) - 1, np.digitize(age, AGE_BANDS[1:-1]))
        names = [
            f"under {AGE_BANDS[1]}",
            *(f"{a} to {b - 1}" for a, b in zip(AGE_BANDS[1:-2], AGE_BANDS[2:-1], strict=True)),
        ]
        found["age"] = np.array([*names, f"{AGE_BANDS[-2]} and over", "unknown"])[band]
    return found


def subgroups(task: Task, found: Predictions, *, rounds: int = 200, seed: int = 0) -> list[Subgroup]:
    """One row a group of each attribute."""
    rows = []
    for attribute, group in groups_of(task.people).items():
        for name in _in_order(group):
            here = np.flatnonzero(group == name)
            rows.append(_subgroup(task, found, attribute, name, here, rounds, seed))
    return rows


def _subgroup(
    task: Task, found: Predictions, attribute: str, name: str, rows: np.ndarray, rounds: int, seed: int
) -> Subgroup:
    y, p, w = task.y[rows], found.p[rows], task.weight[rows]
    nan, interval = float("nan"), (float("nan"), float("nan"))
    prevalence = float(np.average(y, weights=w))
    if not _usable(y):
        return Subgroup(
            attribute, name, len(rows), prevalence, nan, interval, nan, interval, nan, interval, nan
        )
    threshold, resample = (
        found.threshold[rows],
        partial(bootstrap, people=len(rows), rounds=rounds, seed=seed),
    )

    def rate(which: str, i: np.ndarray | slice = slice(None)) -> float:
        return 1 - at_threshold(y[i], p[i], w[i], threshold[i])[which]

    fnr, fpr = partial(rate, "sensitivity"), partial(rate, "specificity")
    return Subgroup(
        attribute, name, len(rows), prevalence,
        auroc(y, p, w), resample(lambda i: auroc(y[i], p[i], w[i])),
        fnr(), resample(fnr), fpr(), resample(fpr),
        float((w * y).sum() / (w * p).sum()),
    )  # fmt: skip


def _in_order(group: np.ndarray) -> list[str]:
    """The groups' names, "under ..." first, "unknown" last."""
    names = map(str, np.unique(group))
    return sorted(names, key=lambda name: (name == "unknown", not name.startswith("under"), name))


@dataclass(frozen=True)
class Gap:
    """Differences of true- and of false-positive rates, highest less lowest group; intervals at 95 %."""

    tpr: float
    tpr_interval: tuple[float, float]
    fpr: float
    fpr_interval: tuple[float, float]


def equalized_odds(task: Task, found: Predictions, *, rounds: int = 200, seed: int = 0) -> dict[str, Gap]:
    """Attribute -> its gap, among groups of `MIN_GROUP` people or more with both classes.

    A gap is never negative, so few people make it look large: intervals that begin far from 0 tell more.
    """
    gaps = {}
    for attribute, group in groups_of(task.people).items():
        names = [n for n in np.unique(group) if _usable(task.y[group == n])]
        if len(names) > 1:
            gap = partial(_gap, task, found, group, names)
            resample = partial(bootstrap, people=len(group), rounds=rounds, seed=seed)
            tpr, fpr = partial(gap, "sensitivity"), partial(gap, "specificity")
            gaps[attribute] = Gap(tpr(), resample(tpr), fpr(), resample(fpr))
    return gaps


def _usable(y: np.ndarray) -> bool:
    return len(y) >= MIN_GROUP and len(np.unique(y)) == 2


def _gap(
    task: Task,
    found: Predictions,
    group: np.ndarray,
    names: list[str],
    which: str,
    rows: np.ndarray | slice = slice(None),
) -> float:
    y, p, w, t = task.y[rows], found.p[rows], task.weight[rows], found.threshold[rows]
    marks = (group[rows] == name for name in names)
    rates = [at_threshold(y[m], p[m], w[m], t[m])[which] for m in marks]
    return float(np.max(rates) - np.min(rates))


def reclassification(people: pl.DataFrame) -> list[dict[str, Any]]:
    """How the last eGFR before the landmark changes stage from the 2009 to the 2021 equation.

    A row: attribute, group, people with an eGFR, share to a more advanced stage, share to a
    less advanced one.
    """
    old, new = (kdigo_stage(people[f"egfr_{year}"].to_numpy()) for year in (2009, 2021))
    order = {stage: i for i, stage in enumerate(STAGES)}
    known = (old != "missing") & (new != "missing")
    change = np.array([order.get(b, 0) - order.get(a, 0) for a, b in zip(old, new, strict=True)])
    rows = []
    for attribute, group in {"all": np.full(len(people), "everybody"), **groups_of(people)}.items():
        for name in _in_order(group):
            here = change[known & (group == name)]
            shares = (float((here > 0).mean()), float((here < 0).mean())) if len(here) else (np.nan, np.nan)
            rows.append(
                {
                    "attribute": attribute,
                    "group": str(name),
                    "people": len(here),
                    "up": shares[0],
                    "down": shares[1],
                }
            )
    return rows


def misclassified(task: Task, found: Predictions, *, top: int = 8) -> list[dict[str, Any]]:
    """Summaries that differ most between missed and found cases, and between false alarms and true negatives.

    Rows: feature, means among TP, FN, FP, TN, and the larger of the two standardised differences.
    """
    table, names = summarise(task.x, task.features)
    called = found.p >= found.threshold
    parts = {
        "TP": called & (task.y == 1),
        "FN": ~called & (task.y == 1),
        "FP": called & (task.y == 0),
        "TN": ~called & (task.y == 0),
    }
    rows = []
    for i, name in enumerate(names):
        column = table[:, i]
        means = {part: _mean(column[marks]) for part, marks in parts.items()}
        spread = np.nanstd(column) if np.isfinite(column).any() else 0.0
        if spread > 0:
            away = np.nanmax([abs(means["FN"] - means["TP"]), abs(means["FP"] - means["TN"]), 0.0]) / spread
            rows.append({"feature": name, **means, "difference": float(away)})
    return sorted(rows, key=lambda row: -row["difference"])[:top]


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
