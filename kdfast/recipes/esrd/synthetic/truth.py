"""What is true of the synthetic people: kidneys, illnesses, hazards, events. No records yet; those are
records.py.

In each quarter q of the six simulated years a person without ESRD reaches it with probability

    h_q = sigmoid(-7 + sum_j EFFECTS[j] * x_j)

where x_j are the true glomerular filtration rate (below 40, per 10 mL/min/1.73 m^2), log albuminuria,
diabetes, heart failure and the yearly rate of hospital admissions. The rate falls linearly, faster with
diabetes and albuminuria.

What a study of these people should find, because it was planted:

- the effects above, and none of `NULL_FEATURES`;
- kidney function and albuminuria are seen in laboratory results only, heart failure and admissions in claims
  only, so neither source alone suffices;
- race has no effect, and creatinine follows the race-free equation of 2021: the race term of 2009 overstates
  the kidney function of Black people, and a model that reads it understates their risk.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EFFECTS = {"low_egfr": 1.2, "log_uacr": 0.45, "diabetes": 0.5, "heart_failure": 1.5, "admissions": 0.8}
NULL_FEATURES = ("stroke", "calcium", "sbp", "conduction_disorder", "n_drug")
INTERCEPT = -7.0
QUARTERS = 24
QUARTER_DAYS = 91.3125
NEVER = 10**7  # a day that never comes
BLACK_SHARE = 0.3


@dataclass(frozen=True)
class Truth:
    """Arrays over people [N] or people and quarters [N, Q]. Days count from 1970-01-01; `NEVER` if not at
    all.
    """

    birth: np.ndarray
    start: np.ndarray  # first day of records
    end: np.ndarray  # last day of follow-up
    female: np.ndarray
    black: np.ndarray
    diabetes: np.ndarray
    heart_failure: np.ndarray
    stroke: np.ndarray
    admissions: np.ndarray  # true rate a year
    log_uacr: np.ndarray
    gfr: np.ndarray  # [N, Q] true mL/min/1.73 m^2 at mid-quarter
    hazard: np.ndarray  # [N, Q] probability of ESRD in the quarter
    esrd: np.ndarray  # day
    death: np.ndarray  # day

    def risk(self, rows: np.ndarray, day: np.ndarray, days: float) -> np.ndarray:
        """True probability of ESRD within `days` after `day` [n], for people `rows` [n] free of it on that
        day.

        Quarters that the interval cuts count in part, with a hazard constant within the quarter.
        """
        begin = ((day - self.start[rows]) / QUARTER_DAYS)[:, None]
        quarter = np.arange(QUARTERS)[None]
        share = np.clip(
            np.minimum(quarter + 1, begin + days / QUARTER_DAYS) - np.maximum(quarter, begin), 0, 1
        )
        return 1 - np.exp((share * np.log1p(-self.hazard[rows])).sum(1))


def simulate(people: int, seed: int = 0) -> Truth:
    """Draw `people` lives."""
    draw = np.random.default_rng([seed, 1])
    start = draw.integers(15_340, 16_436, people)  # 2012 and the two years after it
    age = np.clip(draw.normal(64, 12, people), 15, 92)
    end = start + draw.integers(4 * 365, 6 * 365, people)
    female, black = draw.random(people) < 0.48, draw.random(people) < BLACK_SHARE
    diabetes, failing = draw.random(people) < 0.4, draw.random(people) < 0.25
    admissions = np.minimum(np.exp(draw.normal(-0.7, 0.8, people) + 0.3 * failing), 4.0)
    log_uacr = draw.normal(3.6, 1.2, people) + 0.6 * diabetes
    yearly = -0.8 - 1.0 * diabetes - 0.7 * (log_uacr - 3.6) + draw.normal(0, 1.3, people)
    years = (np.arange(QUARTERS) + 0.5)[None] * QUARTER_DAYS / 365.25
    gfr = np.clip(draw.uniform(22, 72, people)[:, None] + yearly[:, None] * years, 4.0, 130.0)
    score = (
        INTERCEPT
        + EFFECTS["low_egfr"] * np.maximum(40 - gfr, -20) / 10
        + (EFFECTS["log_uacr"] * (log_uacr - 4))[:, None]
        + (EFFECTS["diabetes"] * diabetes)[:, None]
        + (EFFECTS["heart_failure"] * failing)[:, None]
        + (EFFECTS["admissions"] * admissions)[:, None]
    )
    hazard = 1 / (1 + np.exp(-score))
    dying = 1 / (1 + np.exp(5.6 - 0.05 * (age - 65) - 0.5 * failing))
    return Truth(
        birth=(start - age * 365.25).astype(np.int64),
        start=start,
        end=end,
        female=female,
        black=black,
        diabetes=diabetes,
        heart_failure=failing,
        stroke=draw.random(people) < 0.15,
        admissions=admissions,
        log_uacr=log_uacr,
        gfr=gfr,
        hazard=hazard,
        esrd=_first(draw, hazard, start),
        death=_first(draw, np.repeat(dying[:, None], QUARTERS, 1), start),
    )


def moments(
    truth: Truth, draw: np.random.Generator, mean: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson moments, `mean` a quarter for each person: person [M], quarter [M] and day [M] of each."""
    counts = draw.poisson(np.broadcast_to(mean, truth.gfr.shape))
    person, quarter = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    day = truth.start[person] + ((quarter + draw.random(len(person))) * QUARTER_DAYS).astype(np.int64)
    return person, quarter, day


def _first(draw: np.random.Generator, hazard: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Day of the first event under quarterly `hazard`, somewhere within its quarter."""
    happens = draw.random(hazard.shape) < hazard
    quarter = happens.argmax(1)
    day = start + ((quarter + draw.random(len(start))) * QUARTER_DAYS).astype(np.int64)
    return np.where(happens.any(1), day, NEVER)
