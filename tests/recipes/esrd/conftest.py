"""Synthetic people shared by the ESRD tests."""

import numpy as np
import polars as pl
import pytest

from kdfast.recipes.esrd.build import build_cohort
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.synthetic import make_tables, simulate


@pytest.fixture(scope="session")
def truth():
    """600 lives."""
    return simulate(600, seed=3)


@pytest.fixture(scope="session")
def tables(truth):
    """Their records; do not change them in place."""
    return make_tables(truth, seed=3)


@pytest.fixture(scope="session")
def cohort(tables):
    """Their cohort."""
    return build_cohort(tables)[0]


@pytest.fixture(scope="session")
def signal() -> Task:
    """400 people, four steps: the outcome follows the last `level` and the rise of `marker`; `noise` says
    nothing and `flag` is rare. One cell in five is missing.
    """
    draw = np.random.default_rng(5)
    x = draw.normal(size=(400, 4, 4)).astype(np.float32)
    x[:, :, 3] = draw.random((400, 1)) < 0.2
    drive = 1.6 * x[:, -1, 0] + 1.2 * (x[:, -1, 1] - x[:, 0, 1]) + 0.7 * draw.normal(size=400)
    x[:, :, :3][draw.random((400, 4, 3)) < 0.2] = np.nan
    names = ("level", "marker", "noise", "flag")
    features = tuple(Feature(n, "clinical", "mg/dL", flag=n == "flag") for n in names)
    people = pl.DataFrame({"patient_id": np.arange(400)})
    y = (drive > 1.5).astype(np.int64)
    return Task("signal", x, y, np.ones(400), features, people, np.arange(400), months=12, horizon=24)
