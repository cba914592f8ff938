"""The cohort: who is in it, what was seen of them in each window, what became of them.

    index day --- observation window (6 ... 30 months) ---| landmark --- horizon (24 months) ---|

At a landmark a person is eligible who is alive, under follow-up and without evidence of ESRD so far, and
has a record in the window: all of it known on that day. The label is 1 if ESRD falls into the horizon.
Death before ESRD counts as 0 (the event did not happen; the alternative is to leave it out). Follow-up that
ends earlier leaves the label unknown: such people are left out and counted, or their weight is given to
similar ones (inverse probability of censoring weights).

The cohort shrinks as windows grow, so windows are also compared on the people eligible at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import polars as pl

from kdfast.recipes.esrd.censoring import censoring_weights
from kdfast.recipes.esrd.grid import MONTH_DAYS, STEP_MONTHS, Feature
from kdfast.recipes.esrd.timeline import NEVER

WINDOWS = (6, 12, 18, 24, 30)  # months

Funnel = list[tuple[str, int]]


@dataclass(frozen=True)
class Task:
    """One prediction problem: n people, T steps, F features."""

    name: str
    x: np.ndarray  # [n, T, F] float32, NaN where not measured
    y: np.ndarray  # [n] int64, 0 or 1
    weight: np.ndarray  # [n] float64, mean 1
    features: tuple[Feature, ...]
    people: (
        pl.DataFrame
    )  # n rows: patient_id, female, race, black, age, egfr_2009, egfr_2021 (last before the landmark)
    cell: np.ndarray  # [n] row in the cohort
    funnel: Funnel = field(default_factory=list)
    months: int = 0
    horizon: int = 0

    def select(
        self,
        *,
        sources: tuple[str, ...] = ("clinical", "claims"),
        equation: int = 2021,
        race_feature: bool = False,
    ) -> Task:
        """The same people seen through some features: demographics and those of `sources`, eGFR by one
        equation.

        `race_feature` admits race itself, as the paper does; the default leaves it out, so that an
        equation's race term is the only way for race to act.
        """
        chosen = [i for i, f in enumerate(self.features) if _wanted(f, sources, equation, race_feature)]
        return replace(self, x=self.x[:, :, chosen], features=tuple(self.features[i] for i in chosen))


@dataclass(frozen=True)
class Cohort:
    """N people on a common grid. Days are relative to the index day; `NEVER` if not at all."""

    name: str
    x: np.ndarray  # [N, T, F] float32
    features: tuple[Feature, ...]
    people: pl.DataFrame  # patient_id, female, race, black, age (at the index day)
    event: np.ndarray  # [N] day of the outcome
    evidence: np.ndarray  # [N] first day on which the outcome could be suspected; excludes at a landmark
    death: np.ndarray  # [N]
    end: np.ndarray  # [N] last day of follow-up
    index: np.ndarray  # [N] the index day itself, since 1970-01-01
    funnel: Funnel = field(default_factory=list)
    outcome: str = "ESRD"

    def eligible(self, months: int) -> tuple[np.ndarray, Funnel]:
        """[N] bool at the landmark of `months`, and how many people each condition leaves out."""
        day = months * MONTH_DAYS
        window = self.x[:, : self.steps(months)]
        observed = [i for i, f in enumerate(self.features) if f.source != "demographics"]
        seen = np.nan_to_num(window[:, :, observed]).any(axis=(1, 2))
        left, funnel = np.ones(len(self.x), bool), [("in the cohort", len(self.x))]
        for reason, keep in (
            (f"evidence of {self.outcome} before the landmark", self.evidence >= day),
            ("died before the landmark", self.death >= day),
            ("follow-up ended before the landmark", self.end >= day),
            ("no record in the window", seen),
        ):
            funnel.append((f"- {reason}", int((left & ~keep).sum())))
            left &= keep
        return left, [*funnel, ("eligible at the landmark", int(left.sum()))]

    def steps(self, months: int) -> int:
        """Number of steps in a window. ValueError if it is no multiple of a step or longer than the grid."""
        steps = months // STEP_MONTHS
        if months % STEP_MONTHS or not 1 <= steps <= self.x.shape[1]:
            longest = self.x.shape[1] * STEP_MONTHS
            raise ValueError(
                f"months must be a multiple of {STEP_MONTHS} from {STEP_MONTHS} to {longest}, got {months}"
            )
        return steps

    def task(
        self,
        months: int,
        *,
        horizon: int = 24,
        sources: tuple[str, ...] = ("clinical", "claims"),
        equation: int = 2021,
        race_feature: bool = False,
        death: Literal["negative", "exclude"] = "negative",
        censoring: Literal["ipcw", "exclude"] = "ipcw",
        only: np.ndarray | None = None,
    ) -> Task:
        """The problem at the landmark of `months`: features of the window, outcome within `horizon` months
        after it.

        `sources`, `equation` and `race_feature` choose features, not people: see `Task.select`. `only` [N]
        bool narrows the people further. `censoring` "exclude" leaves people with unknown labels out, which
        overstates the risk where follow-up is short; "ipcw" also weighs the others up for them.
        """
        eligible, funnel = self.eligible(months)
        if only is not None:
            funnel.append(("- not in the compared group", int((eligible & ~only).sum())))
            eligible = eligible & only
        y, known, reasons = self._label(months, horizon, death)
        funnel += [(f"- {reason}", int((eligible & mark).sum())) for reason, mark in reasons.items()]
        keep = np.flatnonzero(eligible & known)
        funnel += [("analysed", len(keep)), (f"of these with {self.outcome}", int(y[keep].sum()))]
        weight = np.ones(len(self.x))
        if censoring == "ipcw":
            weight[eligible] = self._censoring_weight(months, horizon, np.flatnonzero(eligible))
        weight = weight[keep]
        window = self.x[keep, : self.steps(months)]
        whole = Task(
            name=f"{self.name}, {months} months",
            x=window,
            y=y[keep],
            weight=weight / weight.mean() if len(keep) else weight,
            features=self.features,
            people=self.people[keep].with_columns(self._last_egfr(window)),
            cell=keep,
            funnel=funnel,
            months=months,
            horizon=horizon,
        )
        return whole.select(sources=sources, equation=equation, race_feature=race_feature)

    def _label(
        self, months: int, horizon: int, death: str
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """[N] labels, [N] whether they are known, and who is unknown for which reason."""
        last = (months + horizon) * MONTH_DAYS
        y = (self.event < last) & (self.event <= self.end)
        died = ~y & (self.death < last) & (self.death <= self.end)
        lost = ~y & ~died & (self.end < last)
        reasons = {f"follow-up ended within the horizon, {self.outcome} unknown": lost}
        if death == "exclude":
            reasons[f"died within the horizon before {self.outcome}"] = died
            lost = lost | died
        elif death != "negative":
            raise ValueError(f"death must be 'negative' or 'exclude', got {death!r}")
        return y.astype(np.int64), ~lost, reasons

    def _censoring_weight(self, months: int, horizon: int, rows: np.ndarray) -> np.ndarray:
        """[n] of the people `rows`, among whom leaving is estimated."""
        event, death, end = (a[rows] for a in (self.event, self.death, self.end))
        stop = np.minimum(np.minimum(event, death), end)
        lost = (stop == end) & (event > end) & (death > end)
        return censoring_weights(stop, lost, (months + horizon) * MONTH_DAYS)

    def _last_egfr(self, window: np.ndarray) -> list[pl.Series]:
        names = [f.name for f in self.features]
        return [
            pl.Series(name, last_known(window[:, :, names.index(name)]))
            for name in ("egfr_2009", "egfr_2021")
            if name in names
        ]


def last_known(values: np.ndarray) -> np.ndarray:
    """[n, T] -> [n] last value that is not NaN."""
    known = ~np.isnan(values)
    last = np.where(known.any(1), values.shape[1] - 1 - known[:, ::-1].argmax(1), 0)
    return values[np.arange(len(values)), last]


def _wanted(feature: Feature, sources: tuple[str, ...], equation: int, race_feature: bool) -> bool:
    if feature.name == "black":
        return race_feature
    if feature.name.startswith("egfr") and not feature.name.endswith(str(equation)):
        return False
    return feature.source == "demographics" or feature.source in sources


__all__ = ["NEVER", "WINDOWS", "Cohort", "Funnel", "Task", "last_known"]
