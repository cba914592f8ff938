"""The cohort's definitions on hand-made people, no look-ahead, labels, censoring."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from kdfast.recipes.esrd.build import build_cohort
from kdfast.recipes.esrd.censoring import censoring_weights
from kdfast.recipes.esrd.cohort import WINDOWS, last_known
from kdfast.recipes.esrd.egfr import ckd_epi_2021, slope
from kdfast.recipes.esrd.grid import MONTH_DAYS
from kdfast.recipes.esrd.timeline import NEVER

ZERO = dt.date(2012, 1, 1)


def day(n: int) -> dt.date:
    return ZERO + dt.timedelta(days=n)


def person(number: int, *, birth=dt.date(1950, 1, 1), death=None, end=2500) -> dict:
    death = None if death is None else day(death)
    return {
        "patient_id": number, "birth_date": birth, "sex": "F", "race": "white", "death_date": death,
        "followup_end": day(end),
    }  # fmt: skip


def tables_of(people, labs=(), diagnoses=(), procedures=()):
    """labs: (person, day, test, value); diagnoses, procedures: (person, day, code)."""
    units = {"creatinine": "mg/dL", "uacr": "mg/g"}
    rows = [(p, day(d), t, float(v), units[t]) for p, d, t, v in labs]
    names = ["patient_id", "date", "test", "value", "unit"]
    types = {"patient_id": pl.Int64, "date": pl.Date, "system": pl.String, "code": pl.String}
    return {
        "patients": pl.DataFrame(people, schema_overrides={"death_date": pl.Date}),
        "labs": pl.DataFrame(
            rows,
            schema=dict(zip(names, [pl.Int64, pl.Date, pl.String, pl.Float64, pl.String], strict=True)),
            orient="row",
        ),
        "diagnoses": pl.DataFrame(
            [(p, day(d), "icd10cm", c) for p, d, c in diagnoses], schema=types, orient="row"
        ),
        "procedures": pl.DataFrame(
            [(p, day(d), "cpt", c) for p, d, c in procedures], schema=types, orient="row"
        ),
    }


def test_index_day_is_the_earlier_of_code_and_second_low_egfr() -> None:
    low, high = 2.0, 0.7  # mg/dL at 62 years, female: eGFR about 27 and 97
    labs = [(1, d, "creatinine", v) for d, v in ((0, low), (50, low), (89, high), (90, low), (200, low))]
    labs += [(2, 0, "creatinine", low), (2, 89, "creatinine", low)]
    labs += [(3, 0, "creatinine", low), (3, 120, "creatinine", low)]
    diagnoses = [(3, 30, "N18.32"), (4, 10, "N18.1"), (4, 40, "N18.9")]
    tables = tables_of([person(i) for i in (1, 2, 3, 4)], labs, diagnoses)
    cohort, _ = build_cohort(tables)
    assert cohort.people["patient_id"].to_list() == [1, 3]
    assert (cohort.index - (ZERO - dt.date(1970, 1, 1)).days).tolist() == [90, 30]
    assert cohort.funnel[0] == ("people in the tables", 4) and cohort.funnel[1][1] == 2


def test_children_and_prevalent_esrd_never_enter() -> None:
    people = [person(1, birth=dt.date(2000, 1, 1)), person(2), person(3), person(4)]
    diagnoses = [(i, 100, "N18.4") for i in (1, 2, 3, 4)] + [(2, 100, "N18.6"), (3, 20, "Z94.0")]
    cohort, _ = build_cohort(tables_of(people, diagnoses=diagnoses))
    assert cohort.people["patient_id"].to_list() == [4]
    assert [n for _, n in cohort.funnel] == [4, 0, 1, 2, 1]


def test_dialysis_counts_once_it_lasts() -> None:
    people = [person(i) for i in (1, 2, 3, 4)]
    diagnoses = [(i, 0, "N18.4") for i in (1, 2, 3, 4)]
    procedures = [
        (1, 300, "90935"),
        (2, 300, "90935"),
        (2, 390, "90935"),
        (3, 300, "90935"),
        (3, 600, "90935"),
    ]
    procedures += [(4, 500, "90960")]
    cohort, _ = build_cohort(tables_of(people, diagnoses=diagnoses, procedures=procedures))
    assert cohort.event.tolist() == [NEVER, 300, NEVER, 500]
    assert cohort.evidence.tolist() == [300, 300, 300, 500]  # acute dialysis excludes, but is no outcome


def test_label_horizon_death_and_censoring() -> None:
    landmark = int(np.ceil(6 * MONTH_DAYS))
    last = int(np.ceil(18 * MONTH_DAYS))  # horizon 12 months
    people = [
        person(1),
        person(2),
        person(3),
        person(4, death=300),
        person(5, end=300),
        person(6, end=landmark),
    ]
    events = [(1, landmark, "N18.6"), (2, last - 1, "N18.6"), (3, last, "N18.6")]
    cohort, _ = build_cohort(tables_of(people, diagnoses=[(i, 0, "N18.4") for i in range(1, 7)] + events))
    task = cohort.task(6, horizon=12, censoring="exclude")
    assert dict(zip(task.people["patient_id"], task.y, strict=True)) == {1: 1, 2: 1, 3: 0, 4: 0}
    assert ("- follow-up ended within the horizon, ESRD unknown", 2) in task.funnel
    left = cohort.task(6, horizon=12, death="exclude").people["patient_id"].to_list()
    assert left == [1, 2, 3]
    with pytest.raises(ValueError, match="multiple of 3 from 3 to 30, got 7"):
        cohort.task(7)


def test_grid_cells_equal_a_loop_over_records(tables, cohort) -> None:
    """One person's cells, recomputed from the tables in plain Python."""
    names = [f.name for f in cohort.features]
    cell = int(np.argmax((~np.isnan(cohort.x[:, :, names.index("egfr_2021")])).sum(1)))
    who = cohort.people["patient_id"][cell]
    birth = tables["patients"].filter(pl.col("patient_id") == who)["birth_date"][0]
    female = bool(cohort.people["female"][cell])
    labs = (
        tables["labs"].filter((pl.col("patient_id") == who) & (pl.col("test") == "creatinine")).sort("date")
    )
    times, values = [], []
    for date, value, unit in labs.select("date", "value", "unit").rows():
        since = (date - dt.date(1970, 1, 1)).days - int(cohort.index[cell])
        if 0 <= since < 30 * MONTH_DAYS:
            times.append(since)
            values.append(float(ckd_epi_2021(value, (date - birth).days / 365.25, female, unit=unit)))
    times, values = np.array(times), np.array(values)
    for step in range(10):
        inside = (times >= step * 3 * MONTH_DAYS) & (times < (step + 1) * 3 * MONTH_DAYS)
        got = cohort.x[cell, step, names.index("egfr_2021")]
        assert got == pytest.approx(values[inside].mean(), rel=1e-5) if inside.any() else np.isnan(got)
        upto = times < (step + 1) * 3 * MONTH_DAYS
        if times[upto].std() > 40:
            expected = slope(times[upto] / 365.25, values[upto])
            assert cohort.x[cell, step, names.index("egfr_slope_2021")] == pytest.approx(expected, rel=1e-4)
    claims = tables["encounters"].filter((pl.col("patient_id") == who) & (pl.col("kind") == "drug"))
    since = np.array([(d - dt.date(1970, 1, 1)).days for d in claims["date"]]) - cohort.index[cell]
    inside = (since >= 0) & (since < 3 * MONTH_DAYS)
    assert cohort.x[cell, 0, names.index("n_drug")] == inside.sum()
    assert cohort.x[cell, 0, names.index("cost_drug")] == pytest.approx(
        claims["cost"].to_numpy()[inside].sum()
    )


def falsify_after(tables, cohort, months):
    """Every record, death and end of follow-up from each person's landmark on changed; the past untouched."""
    epoch = pl.lit(dt.date(1970, 1, 1))
    landmark = np.ceil(cohort.index + months * MONTH_DAYS).astype(int)
    limits = cohort.people.select("patient_id").with_columns(limit=pl.Series(landmark))
    people = tables["patients"].join(limits, on="patient_id", how="left")
    lives_on = (pl.col("death_date") - epoch).dt.total_days() >= pl.col("limit")
    seen_longer = (pl.col("followup_end") - epoch).dt.total_days() >= pl.col("limit")
    people = people.with_columns(
        pl.when(lives_on).then(None).otherwise("death_date").alias("death_date"),
        pl.when(seen_longer)
        .then(pl.col("followup_end").dt.offset_by("200d"))
        .otherwise("followup_end")
        .alias("followup_end"),
    )
    out = {"patients": people.select(tables["patients"].columns)}
    for name, table in tables.items():
        if name == "patients":
            continue
        frame = table.join(limits, on="patient_id", how="left")
        late = (pl.col("date") - epoch).dt.total_days() >= pl.col("limit")
        if "value" in frame.columns:
            frame = frame.with_columns(
                pl.when(late).then(pl.col("value") * 1.3).otherwise("value").alias("value")
            )
        elif "code" in frame.columns:
            esrd = ("icd10cm", "N18.6") if name == "diagnoses" else ("cpt", "90935")
            frame = frame.with_columns(
                [
                    pl.when(late).then(pl.lit(v)).otherwise(c).alias(c)
                    for c, v in zip(("system", "code"), esrd, strict=True)
                ]
            )
        else:
            frame = frame.filter(~late.fill_null(False))
        out[name] = frame.select(table.columns)
    return out


@pytest.mark.parametrize("months", WINDOWS)
def test_nothing_after_the_window_reaches_the_features(tables, cohort, months) -> None:
    changed, _ = build_cohort(falsify_after(tables, cohort, months))
    steps = cohort.steps(months)
    np.testing.assert_array_equal(changed.x[:, :steps], cohort.x[:, :steps])
    np.testing.assert_array_equal(changed.index, cohort.index)
    eligible, funnel = cohort.eligible(months)
    again, same = changed.eligible(months)
    assert (again == eligible).all() and same == funnel
    if steps < cohort.x.shape[1]:  # the test can fail: later cells did change
        assert not np.array_equal(changed.x[:, steps:], cohort.x[:, steps:], equal_nan=True)
    assert (changed.event != cohort.event).any() and (changed.death != cohort.death).any()


def test_who_is_eligible_is_known_at_the_landmark() -> None:
    """A second dialysis after it, which makes the first chronic, decides nothing, nor does a first record."""
    landmark = int(np.ceil(6 * MONTH_DAYS))
    diagnoses = [(i, 0, "N18.3") for i in (1, 2, 3, 4)]
    seen = [(i, 10, "creatinine", 1.5) for i in (1, 2, 4)]
    procedures = [(1, landmark - 30, "90935"), (2, landmark - 30, "90935"), (2, landmark + 70, "90935")]
    late = [(3, landmark, "creatinine", 1.5)]
    people = [person(i) for i in (1, 2, 3, 4)]
    cohort, _ = build_cohort(tables_of(people, seen + late, diagnoses, procedures))
    assert cohort.event.tolist() == [NEVER, landmark - 30, NEVER, NEVER]
    eligible, funnel = cohort.eligible(6)
    assert eligible.tolist() == [False, False, False, True]
    assert ("- evidence of ESRD before the landmark", 2) in funnel and (
        "- no record in the window",
        1,
    ) in funnel
    assert cohort.eligible(12)[0].tolist() == [False, False, True, True]


def test_sources_and_equation_choose_features_not_people(cohort) -> None:
    both, clinical = cohort.task(24), cohort.task(24, sources=("clinical",))
    claims, older = cohort.task(24, sources=("claims",)), cohort.task(24, equation=2009)
    for other in (clinical, claims, older):
        np.testing.assert_array_equal(other.cell, both.cell)
    assert {f.source for f in clinical.features} == {"clinical", "demographics"}
    assert {f.source for f in claims.features} == {"claims", "demographics"}
    names = [f.name for f in older.features]
    assert "egfr_2009" in names and "egfr_2021" not in names and "black" not in names
    assert "black" in [f.name for f in cohort.task(24, race_feature=True).features]


def test_windows_can_be_compared_on_common_people(cohort) -> None:
    common = np.all([cohort.eligible(m)[0] for m in WINDOWS], axis=0)
    for months in WINDOWS:
        task = cohort.task(months, only=common)
        assert set(task.cell) <= set(np.flatnonzero(common))


def test_censoring_weights_recover_the_risk(truth, cohort) -> None:
    """Leaving out people whose follow-up ends early overstates the risk; weighing corrects it."""
    months = 30
    eligible = np.flatnonzero(cohort.eligible(months)[0])
    people = cohort.people["patient_id"].to_numpy()[eligible]
    true = truth.risk(people, cohort.index[eligible] + months * MONTH_DAYS, 24 * MONTH_DAYS).mean()
    weighted, plain = cohort.task(months), cohort.task(months, censoring="exclude")
    assert plain.y.mean() > true + 0.01
    assert abs(np.average(weighted.y, weights=weighted.weight) - true) < 0.5 * (plain.y.mean() - true)
    assert weighted.weight.mean() == pytest.approx(1.0)


def test_censoring_weights_by_hand() -> None:
    """Five people: 3 leaves on day 2 while 4 are seen, so those seen longer stand for 4/3 each."""
    stop, lost = np.array([1, 2, 2, 5, 9]), np.array([False, True, False, False, True])
    found = censoring_weights(stop, lost, last=6)
    np.testing.assert_allclose(found, [1, 1, 1, 4 / 3, 4 / 3])


def test_last_known() -> None:
    nan = np.nan
    found = last_known(np.array([[1, nan, 3, nan], [nan] * 4, [7, nan, nan, nan]]))
    np.testing.assert_array_equal(found, [3, nan, 7])
