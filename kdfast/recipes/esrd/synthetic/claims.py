"""Synthetic claims: diagnosis and procedure codes, encounters with their cost.

Codes are ICD-9-CM before October 2015 and ICD-10-CM after, and are left out at most visits. One person in a
hundred has a single dialysis session for an acute injury, which is no ESRD.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from kdfast.recipes.esrd.synthetic.truth import NEVER, Truth, moments

ICD10_FROM = 16_709  # 2015-10-01
ICD = {  # illness -> ICD-9-CM, ICD-10-CM
    "diabetes": ("250.40", "E11.22"),
    "heart_failure": ("428.0", "I50.9"),
    "stroke": ("434.91", "I63.9"),
    "hypertension": ("401.9", "I10"),
    "conduction_disorder": ("427.31", "I48.91"),
    "anemia": ("285.21", "D63.1"),
    "phosphorus_disorder": ("275.3", "E83.39"),
    "metabolic_acidosis": ("276.2", "E87.2"),
    "ckd_stage_3": ("585.3", "N18.3"),
    "ckd_stage_4": ("585.4", "N18.4"),
    "ckd_stage_5": ("585.5", "N18.5"),
    "esrd": ("585.6", "N18.6"),
    "acute_injury": ("584.9", "N17.9"),
}
VISITS = {  # claims a quarter (None: the person's admissions), log mean and log deviation of the cost
    "drug": (2.5, 4.0, 0.7),
    "inpatient": (None, 9.0, 0.6),
    "outpatient": (1.2, 5.5, 0.8),
    "professional": (1.8, 5.0, 0.6),
}
DIALYSIS, TRANSPLANT = "90935", "50360"  # CPT


def encounters(truth: Truth, draw: np.random.Generator) -> pl.DataFrame:
    """Columns as in the schema, but day numbers for dates."""
    frames = []
    for kind, (mean, middle, spread) in VISITS.items():
        person, _, day = moments(truth, draw, truth.admissions[:, None] / 4 if mean is None else mean)
        cost = np.round(np.exp(draw.normal(middle, spread, len(person))), 2)
        columns = {"patient_id": person, "date": day, "kind": np.full(len(person), kind), "cost": cost}
        frames.append(pl.DataFrame(columns))
    return pl.concat(frames).with_row_index("claim_id")


def codes(truth: Truth, draw: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Diagnoses and procedures, columns as in the schema, but day numbers for dates."""
    person, quarter, day = moments(truth, draw, 1.2)
    said = _said_at_visits(truth, person, truth.gfr[person, quarter], draw)
    frames = [_diagnoses(person[marks], day[marks], name) for name, marks in said.items()]
    ill = np.flatnonzero(truth.esrd < NEVER)
    repeats = truth.esrd[ill, None] + np.array([0, 20, 60, 120])
    frames.append(_diagnoses(np.repeat(ill, 4), repeats.ravel(), "esrd"))
    injured = np.flatnonzero(draw.random(len(truth.start)) < 0.01)
    session = truth.start[injured] + draw.integers(200, 1200, len(injured))
    frames.append(_diagnoses(injured, session, "acute_injury"))
    return pl.concat(frames), _procedures(truth, ill, injured, session, draw)


def _said_at_visits(
    truth: Truth, person: np.ndarray, gfr: np.ndarray, draw: np.random.Generator
) -> dict[str, np.ndarray]:
    """Illness -> visits [V] (bool) at which its code is written down."""
    size = len(truth.start)
    carriers = {
        "diabetes": truth.diabetes,
        "heart_failure": truth.heart_failure,
        "stroke": truth.stroke,
        "hypertension": draw.random(size) < 0.75,
        "conduction_disorder": draw.random(size) < 0.15,
    }
    said = {name: has[person] & (draw.random(len(person)) < 0.35) for name, has in carriers.items()}
    for name, share in (("anemia", 0.15), ("phosphorus_disorder", 0.06), ("metabolic_acidosis", 0.05)):
        said[name] = (gfr < 35) & (draw.random(len(person)) < share)
    for name, low, high in (("ckd_stage_3", 30, 60), ("ckd_stage_4", 15, 30), ("ckd_stage_5", 0, 15)):
        said[name] = (gfr >= low) & (gfr < high) & (draw.random(len(person)) < 0.5)
    return said


def _diagnoses(person: np.ndarray, day: np.ndarray, name: str) -> pl.DataFrame:
    old = day < ICD10_FROM
    code, system = np.where(old, *ICD[name]), np.where(old, "icd9cm", "icd10cm")
    return pl.DataFrame({"patient_id": person, "date": day, "system": system, "code": code})


def _procedures(
    truth: Truth, ill: np.ndarray, injured: np.ndarray, session: np.ndarray, draw: np.random.Generator
) -> pl.DataFrame:
    """A kidney transplant for one in ten, weekly dialysis for a year for the others, one session for the
    injured.
    """
    grafted = draw.random(len(ill)) < 0.1
    treated = ill[~grafted]
    weeks = truth.esrd[treated, None] + 3 + 7 * np.arange(52)[None]
    person = np.concatenate([ill[grafted], np.repeat(treated, 52), injured])
    day = np.concatenate([truth.esrd[ill[grafted]], weeks.ravel(), session])
    code = np.where(np.arange(len(person)) < grafted.sum(), TRANSPLANT, DIALYSIS)
    return pl.DataFrame(
        {"patient_id": person, "date": day, "system": np.full(len(person), "cpt"), "code": code}
    )
