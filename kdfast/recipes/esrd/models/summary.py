"""The window as one row a person, in the features' own units: what tabular models and a KAN read.

measurement -> last value, mean, slope over steps; flag, fixed trait -> last value; claims -> mean a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from kdfast.recipes.esrd.cohort import last_known
from kdfast.recipes.esrd.grid import STEP_MONTHS, Feature


def summarise(x: np.ndarray, features: Sequence[Feature]) -> tuple[np.ndarray, list[str]]:
    """x [n, T, F] -> table [n, P] float64 with NaN where nothing was measured, and the P names."""
    columns, names = [], []
    for i, feature in enumerate(features):
        values = x[:, :, i].astype(np.float64)
        for statistic in statistics(feature, x.shape[1]):
            columns.append(_STATISTICS[statistic](values))
            names.append(feature.name if statistic == "value" else f"{feature.name} ({statistic})")
    return np.stack(columns, 1), names


def statistics(feature: Feature, steps: int) -> tuple[str, ...]:
    """Which statistics a feature is summarised by."""
    if (
        feature.source == "demographics"
        or feature.flag
        or feature.name.startswith("egfr_slope")
        or steps == 1
    ):
        return ("value",)
    return ("mean",) if feature.source == "claims" else ("last", "mean", "slope")


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing measured: NaN is the answer
        return np.nanmean(values, axis=1)


def _slope(values: np.ndarray) -> np.ndarray:
    """[n, T] -> [n] least-squares slope a year over the steps with a value; NaN below two."""
    known = ~np.isnan(values)
    n = known.sum(1)
    t = np.arange(values.shape[1]) * STEP_MONTHS / 12
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = (known * t).sum(1) / n
        away = known * (t - centre[:, None])
        slope = (away * np.nan_to_num(values)).sum(1) / (away**2).sum(1)
    return np.where(n > 1, slope, np.nan)


_STATISTICS = {"value": last_known, "last": last_known, "mean": _mean, "slope": _slope}
