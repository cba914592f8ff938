"""Metrics against known vectors and other packages; folds; nested cross-validation without leakage."""

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.calibration import calibration_curve as sklearn_curve
from torchmetrics.functional.classification import binary_calibration_error

from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.evaluation import (
    Platt,
    Predictions,
    auroc,
    best_f1_threshold,
    bootstrap,
    calibration_curve,
    nested_cv,
    net_benefit,
    scores,
    split,
)
from kdfast.recipes.esrd.evaluation.metrics import at_threshold, calibration_error
from kdfast.recipes.esrd.fairness import equalized_odds, groups_of, misclassified, reclassification, subgroups
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.tables import DataError

I20 = np.arange(1, 21)
P = 0.5 + 0.45 * np.sin(2 * I20 + 0.3)
Y = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 1])


def make_task(n=240, seed=0, groups=None) -> Task:
    """y depends on the first of three features."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 4, 3)).astype(np.float32)
    y = (x[:, -1, 0] + 0.5 * draw.normal(size=n) > 0.8).astype(np.int64)
    ids = np.arange(n) if groups is None else groups
    people = pl.DataFrame(
        {
            "patient_id": ids,
            "female": draw.random(n) < 0.5,
            "race": draw.choice(["black", "white"], n),
            "age": draw.uniform(30, 90, n),
            "egfr_2009": draw.uniform(5, 90, n),
            "egfr_2021": draw.uniform(5, 90, n),
        }
    )
    features = tuple(Feature(name, "clinical") for name in "abc")
    return Task("test", x, y, np.ones(n), features, people, np.arange(n))


def test_specification_vector() -> None:
    found = scores(Y, P)
    expected = {
        "auroc": 0.79, "auprc": 0.7031990232, "brier": 0.1824479364, "ece": 0.2288777673, "sensitivity": 0.8,
        "specificity": 0.8, "precision": 0.8, "f1": 0.8, "accuracy": 0.8,
    }  # fmt: skip
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-9)
    odd, even = at_threshold(Y[::2], P[::2]), at_threshold(Y[1::2], P[1::2])
    assert (1 - odd["sensitivity"], 1 - odd["specificity"]) == pytest.approx((0.25, 0))
    assert (1 - even["sensitivity"], 1 - even["specificity"]) == pytest.approx((0, 0.25))


def test_calibration_equals_torchmetrics_and_sklearn() -> None:
    draw = np.random.default_rng(1)
    p, y = draw.random(500), (draw.random(500) < 0.4).astype(int)
    theirs = binary_calibration_error(torch.from_numpy(p), torch.from_numpy(y), n_bins=10, norm="l1")
    assert calibration_error(y, p) == pytest.approx(theirs.item(), abs=1e-6)
    predicted, observed = calibration_curve(y, p, bins=5)
    their_observed, their_predicted = sklearn_curve(y, p, n_bins=5, strategy="quantile")
    np.testing.assert_allclose(predicted, their_predicted, atol=0.01)
    np.testing.assert_allclose(observed, their_observed, atol=0.03)


def test_weights_are_copies() -> None:
    """An integer weight is the same as repeating the person."""
    weight = np.arange(20) % 3 + 1
    repeated = scores(np.repeat(Y, weight), np.repeat(P, weight))
    assert scores(Y, P, weight.astype(float)) == pytest.approx(repeated)


def test_net_benefit() -> None:
    found = net_benefit(Y, P, thresholds=np.array([0.2, 0.5]))
    assert found["model"][1] == pytest.approx((8 - 2) / 20)
    assert found["everybody"] == pytest.approx([0.5 - 0.25 * 0.5, 0.0]) and found["nobody"] == [0, 0]


def test_platt_recovers_a_logistic_map() -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=40_000)
    y = draw.random(40_000) < 1 / (1 + np.exp(-(0.5 * z - 2)))
    platt = Platt.fit(z, y)
    assert (platt.slope, platt.intercept) == pytest.approx((0.5, -2), abs=0.08)
    assert best_f1_threshold(Y, P) in P


def test_bootstrap_covers_and_is_repeatable() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda i: values[i].mean(), 400, rounds=500)
    assert low < values.mean() < high and high - low == pytest.approx(3.92 / 20, rel=0.2)
    assert bootstrap(lambda i: values[i].mean(), 400) == bootstrap(lambda i: values[i].mean(), 400)
    assert np.isnan(bootstrap(lambda i: auroc(np.zeros(5, int)[i], values[i]), 5)[0])


def test_folds_keep_people_whole() -> None:
    groups = np.repeat(np.arange(60), 3)
    y = np.repeat(np.arange(60) % 4 == 0, 3).astype(int)
    for train, test in split(y, groups, 5, seed=0):
        assert not set(groups[train]) & set(groups[test])
        assert y[test].any() and not y[test].all()


def test_a_missing_class_is_named_with_counts() -> None:
    y = np.zeros(50, int)
    y[:3] = 1
    with pytest.raises(DataError, match="3 positives among 50 people cannot fill 5 folds"):
        split(y, np.arange(50), 5, seed=0)
    with pytest.raises(DataError, match="0 negatives among 50 people"):
        split(np.ones(50, int), np.arange(50), 5, seed=0)
    with pytest.raises(ValueError, match="folds must be at least 2"):
        split(Y, I20, 1, seed=0)


class Spy:
    """A model that notes which people it was fitted on and asked about."""

    log: list = []

    def __init__(self, offset=0.0) -> None:
        self.offset = offset

    def fit(self, x, y, weight=None):
        self.seen = {v.tobytes() for v in x}
        return self

    def logits(self, x):
        asked = {v.tobytes() for v in x}
        Spy.log.append((self.seen, asked))
        return x[:, -1, 0].astype(float) * self.offset


def test_nested_cv_never_shows_a_person_to_the_model_that_predicts_it() -> None:
    task, Spy.log = make_task(), []
    found = nested_cv(task, lambda p: Spy(**p), [{"offset": -1.0}, {"offset": 1.0}], folds=4, inner=3)
    per_fold = 2 * 3 + 3  # inner fits of both settings, then the chosen three on the outer fold
    assert len(Spy.log) == 4 * per_fold
    assert all(not seen & asked for seen, asked in Spy.log)
    for number in range(4):  # settings and calibration of a fold never see its people
        *inner, (_, test) = Spy.log[per_fold * number : per_fold * (number + 1)]
        for seen, asked in inner[:6]:
            assert not test & (seen | asked)
    assert found.chosen == [{"offset": 1.0}] * 4 and not np.isnan(found.p).any()
    again = Predictions.from_json(found.to_json())
    np.testing.assert_array_equal(again.p, found.p)


def test_subgroups_and_reclassification() -> None:
    task = make_task(400)
    found = Predictions(
        1 / (1 + np.exp(-3 * (task.x[:, -1, 0] - 0.8).astype(float))), np.full(400, 0.5), np.zeros(400), []
    )
    rows = subgroups(task, found, rounds=40)
    assert {r.attribute for r in rows} == {"sex", "race", "age"}
    assert sum(r.people for r in rows if r.attribute == "race") == 400
    women = next(r for r in rows if r.group == "female")
    here = task.people["female"].to_numpy()
    assert women.auroc == pytest.approx(auroc(task.y[here], found.p[here]))
    assert women.auroc_interval[0] < women.auroc < women.auroc_interval[1]
    gaps = equalized_odds(task, found, rounds=40)
    fnr = [r.fnr for r in rows if r.attribute == "sex"]
    assert gaps["sex"].tpr == pytest.approx(abs(fnr[0] - fnr[1]))
    low, high = gaps["sex"].fpr_interval
    assert 0 <= low <= high and women.fnr_interval[0] <= women.fnr <= women.fnr_interval[1]
    assert misclassified(task, found)[0]["feature"].startswith("a")
    assert groups_of(task.people)["age"].tolist().count("under 55") == (task.people["age"] < 55).sum()
    people = pl.DataFrame({"egfr_2009": [62.0, 40.0, 31.0, np.nan], "egfr_2021": [58.0, 46.0, 31.0, 10.0]})
    assert reclassification(people)[0] == {
        "attribute": "all", "group": "everybody", "people": 3,
        "up": pytest.approx(1 / 3), "down": pytest.approx(1 / 3),
    }  # fmt: skip
