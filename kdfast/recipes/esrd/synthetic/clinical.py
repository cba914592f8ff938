"""Synthetic laboratory results and vital signs.

Creatinine is the 2021 equation solved for creatinine at the true filtration rate, with 5 % of measurement
noise; one result in twenty is reported in umol/L. Calcium and blood pressure mean nothing for the outcome.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from kdfast.recipes.esrd.egfr import CKD_EPI_2021, UMOL_PER_MG
from kdfast.recipes.esrd.synthetic.truth import Truth, moments

LABS = {  # results a quarter, unit
    "creatinine": (1.3, "mg/dL"),
    "uacr": (0.6, "mg/g"),
    "hemoglobin": (0.8, "g/dL"),
    "calcium": (0.8, "mg/dL"),
    "phosphorus": (0.4, "mg/dL"),
    "pth": (0.2, "pg/mL"),
}
VITALS = {  # unit, mean, deviation between people, within a person
    "bmi": ("kg/m2", 29.0, 5.0, 0.5),
    "sbp": ("mmHg", 134.0, 10.0, 10.0),
    "dbp": ("mmHg", 78.0, 6.0, 7.0),
}


def creatinine_of(gfr: np.ndarray, age: np.ndarray, female: np.ndarray) -> np.ndarray:
    """Serum creatinine (mg/dL) at which the 2021 equation gives `gfr`."""
    e = CKD_EPI_2021
    kappa, alpha = np.where(female, *e.kappa), np.where(female, *e.alpha)
    ratio = gfr / (e.scale * e.per_year**age * np.where(female, e.female, 1.0))
    return kappa * ratio ** (1 / np.where(ratio <= 1, e.above, alpha))


def labs(truth: Truth, draw: np.random.Generator) -> pl.DataFrame:
    """Columns as in the schema, but day numbers for dates."""
    frames = []
    for test, (mean, unit) in LABS.items():
        person, quarter, day = moments(truth, draw, mean)
        value = _result(test, truth, person, quarter, day, draw.normal(0, 1, len(person)))
        frames.append(_long(person, day, test, value, unit))
    frame = pl.concat(frames)
    other = pl.Series(draw.random(len(frame)) < 0.05) & (frame["test"] == "creatinine")
    return frame.with_columns(
        pl.when(other).then(pl.col("value") * UMOL_PER_MG).otherwise("value").round(3).alias("value"),
        pl.when(other).then(pl.lit("umol/L")).otherwise("unit").alias("unit"),
    )


def _result(
    test: str, truth: Truth, person: np.ndarray, quarter: np.ndarray, day: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    lost = 60 - truth.gfr[person, quarter]  # filtration rate below normal, mL/min/1.73 m^2
    if test == "creatinine":
        age = (day - truth.birth[person]) / 365.25
        return creatinine_of(60 - lost, age, truth.female[person]) * np.exp(0.05 * noise)
    if test == "uacr":
        return np.exp(truth.log_uacr[person] + 0.35 * noise)
    if test == "hemoglobin":
        return 13.6 - 0.04 * lost + 0.8 * noise
    if test == "phosphorus":
        return 3.4 + 0.02 * lost + 0.4 * noise
    if test == "pth":
        return np.exp(4.0 + 0.02 * lost + 0.4 * noise)
    return 9.4 + 0.4 * noise


def vitals(truth: Truth, draw: np.random.Generator) -> pl.DataFrame:
    """Columns as in the schema, but day numbers for dates."""
    frames = []
    for test, (unit, mean, between, within) in VITALS.items():
        person, _, day = moments(truth, draw, 0.8)
        own = np.maximum(draw.normal(mean, between, len(truth.start)), 0.6 * mean)
        value = own[person] + within * draw.normal(0, 1, len(person))
        frames.append(_long(person, day, test, np.round(value, 1), unit))
    return pl.concat(frames)


def _long(person: np.ndarray, day: np.ndarray, test: str, value: np.ndarray, unit: str) -> pl.DataFrame:
    frame = pl.DataFrame({"patient_id": person, "date": day, "value": value})
    return frame.with_columns(pl.lit(test).alias("test"), pl.lit(unit).alias("unit"))
