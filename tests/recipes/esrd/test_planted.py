"""Synthetic people: what was planted is what the study finds. Risks are known, so little is left to luck."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from kdfast.recipes.esrd.build import build_cohort
from kdfast.recipes.esrd.evaluation import auroc, nested_cv
from kdfast.recipes.esrd.explain import tree_shap
from kdfast.recipes.esrd.models import make_model
from kdfast.recipes.esrd.recovery import (
    expected_auroc,
    importance_of_causes,
    true_risk,
    true_to_predicted,
)
from kdfast.recipes.esrd.study import Study
from kdfast.recipes.esrd.synthetic import EFFECTS, NULL_FEATURES, make_tables, simulate
from kdfast.recipes.esrd.synthetic.truth import NEVER, QUARTER_DAYS


@pytest.fixture(scope="module")
def study() -> Study:
    """4,000 people seen for a year."""
    truth = simulate(4000, seed=21)
    cohort, _ = build_cohort(make_tables(truth, seed=21))
    return Study(title="", outcome="ESRD", provenance="", cohort=cohort, truth=truth)


def predicted(study, model="logistic", **change) -> tuple[np.ndarray, np.ndarray]:
    """True risks and out-of-fold predictions at 12 months."""
    task = study.task(12, 24, **change)
    found = nested_cv(task, lambda p: make_model(model, task.features, p), folds=3, inner=3)
    return true_risk(study, task), found.p


@pytest.fixture(scope="module")
def by_equation(study):
    """Equation -> true risks, predictions, Black people."""
    task = study.task(12, 24)
    black = task.people["black"].to_numpy()
    return {year: (*predicted(study, equation=year), black) for year in (2009, 2021)}


def test_planted_effects_are_in_the_events() -> None:
    """A logistic regression of the quarters' events on the true causes gives the planted effects back."""
    truth = simulate(20_000, seed=4)
    quarters = truth.gfr.shape[1]
    event = np.where(truth.esrd < NEVER, (truth.esrd - truth.start) // QUARTER_DAYS, quarters).astype(int)
    person, quarter = np.nonzero(np.arange(quarters)[None] <= event[:, None])  # at risk
    causes = [
        np.maximum(40 - truth.gfr[person, quarter], -20) / 10,
        truth.log_uacr[person],
        truth.diabetes[person],
        truth.heart_failure[person],
        truth.admissions[person],
        truth.black[person],
        truth.stroke[person],
    ]
    happened = event[person] == quarter
    fitted = LogisticRegression(C=1e6, max_iter=500).fit(np.stack(causes, 1), happened).coef_[0]
    np.testing.assert_allclose(fitted[:5], list(EFFECTS.values()), atol=0.12)
    np.testing.assert_allclose(fitted[5:], 0, atol=0.15)  # race and stroke mean nothing


def test_true_risk_is_the_share_of_events(study) -> None:
    """Over people without censoring: calibrated in thirds."""
    rows = np.arange(4000)
    truth = study.truth
    day = truth.start + 200
    alive = truth.esrd > day
    risk = truth.risk(rows[alive], day[alive], 730.0)
    happened = truth.esrd[alive] <= (day + 730)[alive]
    for part in np.array_split(np.argsort(risk), 3):
        spread = np.sqrt((risk[part] * (1 - risk[part])).sum()) / len(part)
        assert abs(happened[part].mean() - risk[part].mean()) < 3.5 * spread


def test_expected_auroc_is_the_mean_over_many_draws() -> None:
    draw = np.random.default_rng(0)
    risk, p = draw.random(300) * 0.5, draw.random(300)
    p += risk
    drawn = [auroc((draw.random(300) < risk).astype(int), p) for _ in range(400)]
    assert expected_auroc(risk, p) == pytest.approx(np.mean(drawn), abs=0.005)


def test_models_come_near_the_true_risks(study, by_equation) -> None:
    risk, p, _ = by_equation[2021]
    assert expected_auroc(risk, p) > 0.9 * expected_auroc(risk, risk)
    assert np.corrcoef(np.log(risk), np.log(p))[0, 1] > 0.75
    assert risk.sum() / p.sum() == pytest.approx(1, abs=0.15)


def test_neither_source_alone_suffices(study, by_equation) -> None:
    risk, p, _ = by_equation[2021]
    both = expected_auroc(risk, p)
    alone = [expected_auroc(*predicted(study, sources=(source,))) for source in ("clinical", "claims")]
    assert both > max(alone) + 0.015


def test_the_equation_of_2009_understates_black_peoples_risk(by_equation) -> None:
    """Its race term, read by a model that does not see race; the race-free equation treats both alike."""
    ratio = {year: true_to_predicted(*found) for year, found in by_equation.items()}
    gap = {year: r["black"] / r["white"] for year, r in ratio.items()}
    assert gap[2009] > gap[2021] + 0.03 and gap[2009] > 1.05
    assert gap[2021] == pytest.approx(1, abs=0.08)


def test_shapley_values_find_the_causes(study) -> None:
    task = study.task(12, 24)
    model = make_model("xgboost", task.features).fit(task.x, task.y, task.weight)
    sizes = importance_of_causes(tree_shap(model, task.x[:400]))
    assert set(sizes) == {*EFFECTS, *NULL_FEATURES}
    assert sizes["low_egfr"] == max(sizes.values())
    strong = min(sizes[c] for c in ("low_egfr", "log_uacr", "heart_failure", "admissions"))
    assert strong > max(sizes["stroke"], sizes["conduction_disorder"], sizes["n_drug"])


def test_creatinine_gives_the_true_filtration_rate_back(study) -> None:
    """The last eGFR by 2021 is unbiased for both races, that by 2009 is 16 % too high for Black people."""
    task = study.task(12, 24)
    people = task.people["patient_id"].to_numpy()
    when = study.cohort.index[task.cell] + 300 - study.truth.start[people]
    gfr = study.truth.gfr[people, np.clip((when // QUARTER_DAYS).astype(int), 0, 23)]
    black = task.people["black"].to_numpy()
    ratio = {y: task.people[f"egfr_{y}"].to_numpy() / gfr for y in (2009, 2021)}
    for mark in (black, ~black):
        assert np.nanmedian(ratio[2021][mark]) == pytest.approx(1, abs=0.03)
    spread = np.nanmedian(ratio[2009][black]) / np.nanmedian(ratio[2009][~black])
    assert spread == pytest.approx(1.159, abs=0.02)


def test_the_same_seed_gives_the_same_records() -> None:
    first, second = (make_tables(simulate(50, 1), 1) for _ in range(2))
    assert all(first[name].equals(second[name]) for name in first)
    assert not make_tables(simulate(50, 2), 2)["labs"].equals(first["labs"])
