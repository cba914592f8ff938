"""Bad tables are refused by name and count; with consent they are left out and still counted."""

import datetime as dt

import polars as pl
import pytest

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.esrd.build import build_cohort
from kdfast.recipes.esrd.checks import check_tables
from kdfast.recipes.esrd.codes import load_codes
from kdfast.recipes.esrd.persons import is_black
from kdfast.recipes.esrd.schema import describe
from kdfast.recipes.esrd.synthetic import write_tables
from kdfast.recipes.esrd.tables import DataError, scan_folder, scan_frames

DAY = dt.date(2014, 6, 1)
PATIENTS = pl.DataFrame(
    {
        "patient_id": [1, 2, 3],
        "birth_date": [dt.date(1950, 1, 1), dt.date(1960, 1, 1), dt.date(1970, 1, 1)],
        "sex": ["F", "m", "M"],
        "race": ["Black", None, "white"],
        "death_date": [None, dt.date(2015, 1, 1), None],
        "followup_end": [dt.date(2018, 1, 1)] * 3,
    }
)
LABS = pl.DataFrame(
    {
        "patient_id": [1, 2, 3],
        "date": DAY,
        "test": "creatinine",
        "value": [1.5, 2.0, 132.6],
        "unit": ["mg/dL", "mg/dL", "µmol/L"],
    }
)
DIAGNOSES = pl.DataFrame(
    {"patient_id": [1, 2], "date": DAY, "system": ["ICD-10-CM", "icd9cm"], "code": ["n18.3", "5853"]}
)
ENCOUNTERS = pl.DataFrame(
    {"patient_id": [1, 2], "date": DAY, "kind": ["drug", "Inpatient"], "cost": [10.0, 900.0]}
)


def check(on_bad="stop", **tables):
    frames = {"patients": PATIENTS, "labs": LABS, "diagnoses": DIAGNOSES, "encounters": ENCOUNTERS, **tables}
    return check_tables(scan_frames(frames), load_codes(), on_bad=on_bad)


def first(frame: pl.DataFrame, **values) -> pl.DataFrame:
    """`frame` with other values in its first row."""
    change = [
        pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(v)).otherwise(n).alias(n) for n, v in values.items()
    ]
    return frame.with_columns(change)


def test_good_tables_pass_and_units_convert() -> None:
    clean = check()
    assert [str(f) for f in clean.findings] == ["patients: 1 of 3 rows have no race, taken as not Black"]
    assert clean.patients["race"].to_list() == ["black", "unknown", "white"]
    values = clean.events["labs"].sort("row").collect()["value"].to_list()
    assert values == pytest.approx([1.5, 2.0, 1.5], rel=1e-6)


BAD = {
    "creatinine of 90 mg/dL": (
        {"labs": first(LABS, value=90.0).head(1)},
        r"labs: 1 of 1 rows with creatinine in mg/dl lie outside 0.1 to 30 .*look like umol/l \(100% ",
    ),
    "unknown unit": ({"labs": first(LABS, unit="g/L")}, r"labs: 1 of 1 rows give creatinine in 'g/l'"),
    "duplicate patients": (
        {"patients": pl.concat([PATIENTS, first(PATIENTS.head(1), sex="M")])},
        "patients: 2 of 4 rows are duplicate patients with conflicting entries",
    ),
    "repeated patients": (
        {"patients": pl.concat([PATIENTS, PATIENTS.tail(1)])},
        "1 of 4 rows repeat a person word",
    ),
    "before birth": (
        {"labs": first(LABS, date=dt.date(1949, 1, 1))},
        "labs: 1 of 3 rows are dated before birth",
    ),
    "after death": (
        {"diagnoses": first(DIAGNOSES.reverse(), date=dt.date(2016, 1, 1))},
        "diagnoses: 1 of 2 rows are dated after death",
    ),
    "impossible age": (
        {"patients": first(PATIENTS, birth_date=dt.date(1850, 1, 1))},
        r"patients: 1 of 3 rows have an impossible age \(over 120 years\)",
    ),
    "death before birth": (
        {"patients": first(PATIENTS, death_date=dt.date(1949, 1, 1))},
        "patients: 1 of 3 rows die before birth",
    ),
    "sex": ({"patients": first(PATIENTS, sex="x")}, "patients: 1 of 3 rows have a sex other than F, M"),
    "unknown code": (
        {"diagnoses": first(DIAGNOSES, code="??")},
        r"diagnoses: 1 of 2 rows have a code their system does not know \(ICD-10-CM '\?\?' 1 times\)",
    ),
    "unknown system": (
        {"diagnoses": first(DIAGNOSES, system="snomed")},
        "1 of 2 rows have a code their system",
    ),
    "unknown person": ({"labs": first(LABS, patient_id=9)}, "labs: 1 of 3 rows belong to nobody"),
    "negative cost": (
        {"encounters": first(ENCOUNTERS, cost=-1.0)},
        "encounters: 1 of 2 rows have a negative cost",
    ),
    "kind": (
        {"encounters": first(ENCOUNTERS, kind="taxi")},
        "encounters: 1 of 2 rows have a kind other than drug",
    ),
    "no date": ({"labs": first(LABS, date=None)}, "labs: 1 of 3 rows have no date"),
    "repeated claim": (
        {"encounters": pl.concat([ENCOUNTERS, ENCOUNTERS.head(1)])},
        "encounters: 1 of 3 rows repeat another row word for word",
    ),
    "orphan of nobody": (
        {"encounters": first(ENCOUNTERS, patient_id=7)},
        "1 of 2 rows belong to nobody in patients",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named_with_their_count(case) -> None:
    tables, message = BAD[case]
    with pytest.raises(DataError, match=message) as error:
        check(**tables)
    assert isinstance(error.value, ValueError) and isinstance(error.value, UserError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", [c for c in BAD if c not in ("creatinine of 90 mg/dL", "unknown unit")])
def test_with_consent_bad_rows_are_left_out_and_counted(case) -> None:
    tables, message = BAD[case]
    clean = check(on_bad="exclude", **tables)
    (name, table), *_ = tables.items()
    left = clean.patients if name == "patients" else clean.events[name].collect()
    assert len(left) == len(table) - sum(
        f.count for f in clean.findings if f.table == name and f.effect != "kept"
    )
    assert message.split(" rows ")[-1][:10].replace("\\", "") in " ".join(f.problem for f in clean.findings)


def test_wrong_units_stop_even_with_consent_but_an_outlier_does_not() -> None:
    with pytest.raises(DataError, match="look like umol/l"):
        check(on_bad="exclude", labs=first(LABS, value=90.0).head(1))
    many = pl.concat([LABS] * 20)
    clean = check(on_bad="exclude", labs=first(many, value=90.0))
    (finding,) = [str(f) for f in clean.findings if f.table == "labs"]
    assert finding.startswith("labs: 1 of 40 rows with creatinine in mg/dl lie outside 0.1 to 30 ")
    with pytest.raises(DataError, match=r"1 of 40 rows with creatinine in mg/dl .*look like umol/l \(100% "):
        check(labs=first(many, value=90.0))


def test_several_problems_are_named_at_once() -> None:
    with pytest.raises(DataError, match="hold 3 problems: patients: .*; labs: 1 of 3 rows have no date; "):
        check(
            patients=first(PATIENTS, sex="?"),
            labs=first(LABS.reverse(), date=None),
            encounters=ENCOUNTERS.with_columns(cost=-1),
        )


def test_missing_tables_and_columns(tmp_path) -> None:
    write_tables(tmp_path, {"patients": PATIENTS.drop("sex"), "labs": LABS.drop("unit")}, "csv")
    with pytest.raises(
        DataError, match=r"lacks 3 needed items: column patients.sex, column labs.unit, table diagnoses"
    ):
        scan_folder(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        scan_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of patients"):
        scan_frames({"pateints": PATIENTS})


def test_unreadable_csv_cells_are_counted(tmp_path) -> None:
    labs = LABS.with_columns(
        value=pl.Series(["1.5", "high", ""]), date=pl.Series(["2014-06-01", "2014-06-01", "1 June"])
    )
    write_tables(tmp_path, {"patients": PATIENTS, "labs": labs, "diagnoses": DIAGNOSES}, "csv")
    with pytest.raises(DataError) as error:
        check_tables(scan_folder(tmp_path), load_codes())
    assert "labs: 1 of 3 rows have a value that is no number" in str(error.value)
    assert "labs: 1 of 3 rows have a date that is no date" in str(error.value)
    assert "no result" not in str(error.value)  # an empty cell is no error


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_give_the_cohort_of_the_frames(tmp_path, tables, cohort, kind) -> None:
    write_tables(tmp_path, tables, kind)
    read = build_cohort(tmp_path)[0]
    assert (read.x == cohort.x).sum() == (cohort.x == cohort.x).sum()  # NaN differs from itself
    assert read.funnel == cohort.funnel and (read.event == cohort.event).all()


def test_codes() -> None:
    book = load_codes()
    assert book.sets_of("ICD-10-CM", "n18.32") == ("ckd_stage_3",)
    assert book.sets_of("icd10cm", "E87.2") == ("metabolic_acidosis", "fluid_electrolyte")
    assert book.sets_of("cpt", "90960") == ("esrd",) and book.sets_of("cpt", "90935") == ("dialysis",)
    assert book.sets_of("icd10pcs", "0TY00Z0") == ("transplant",)
    assert book.sets_of("icd9cm", "90960") == () and not book.known("cpt", "N18.6")
    assert len(book.with_role("comorbidity")) == 16


def test_own_code_file_is_checked(tmp_path) -> None:
    path = tmp_path / "codes.yaml"
    path.write_text("systems: {icd10cm: {pattern: x}}\nsets: {esrd: {role: outcome, icd10: [N186]}}")
    with pytest.raises(ValueError, match="undeclared systems"):
        load_codes(path)
    path.write_text("systems: {icd10cm: {pattern: x}}\nsets: {esrd: {role: outcome, icd10cm: [N186]}}")
    with pytest.raises(ValueError, match="lacks the sets"):
        load_codes(path)


def test_schema_documents_every_table() -> None:
    text = describe()
    assert "birth_date" in text and "umol/l" in text and "mg/g" in text


def test_records_of_people_left_out_are_counted_apart() -> None:
    clean = check(on_bad="exclude", patients=first(PATIENTS, sex="?"))
    assert "labs: 1 of 3 rows belong to people left out of patients" in [str(f) for f in clean.findings]
    assert not any("nobody" in f.problem for f in clean.findings)


def test_equal_claims_with_their_own_number_are_no_copies() -> None:
    twice = pl.concat([ENCOUNTERS, ENCOUNTERS]).with_columns(claim_id=pl.Series(["a", "b", "c", "d"]))
    assert {f.table for f in check(encounters=twice).findings} == {"patients"}


def test_race_is_read_as_it_is_written() -> None:
    said = ["Black", "Black or African American", "AFRICAN-AMERICAN", "white", "Blackfoot"]
    people = pl.DataFrame({"race": [text.lower() for text in said]})
    assert people.select(is_black()).to_series().to_list() == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("systems: [1", "is no YAML"),
        ("hello", "must hold the mappings 'systems' and 'sets'"),
        (
            "systems: {a: {pattern: '['}}\nsets: {b: {role: outcome}}",
            "system 'a' in codes.yaml needs a pattern",
        ),
    ],
)
def test_a_code_file_that_is_none_is_one_sentence(tmp_path, text, message) -> None:
    path = tmp_path / "codes.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        load_codes(path)
    assert isinstance(error.value, UserError) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("labs.csv", b""), ("labs.parquet", b"PAR1rubbish"), ("labs.csv", b"\xff\xfe\x80,\xff\n\x81,1\n")],
)
def test_files_that_are_no_tables_are_one_sentence(tmp_path, name, content) -> None:
    write_tables(tmp_path, {"patients": PATIENTS, "diagnoses": DIAGNOSES}, "csv")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        build_cohort(tmp_path)
    assert "labs" in str(error.value) and "\n" not in str(error.value)
