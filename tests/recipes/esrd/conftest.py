"""Synthetic people shared by the ESRD tests."""

import pytest

from kdfast.recipes.esrd.build import build_cohort
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
