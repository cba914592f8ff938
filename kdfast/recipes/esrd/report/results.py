"""Sections on the people and on how well models predict for them."""

from __future__ import annotations

import numpy as np

from kdfast.recipes.common.report import Report
from kdfast.recipes.esrd.evaluation import score_intervals
from kdfast.recipes.esrd.report import figures
from kdfast.recipes.esrd.report.cells import difference, interval, number, share
from kdfast.recipes.esrd.report.labels import model_name
from kdfast.recipes.esrd.steps import Distilled, Evaluated, auroc_gain
from kdfast.recipes.esrd.study import Study

METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1_at_half": "F1 at 0.5",
    "f1": "F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "brier": "Brier",
    "ece": "ECE",
    "observed_to_expected": "O / E",
}
INTERVALS = ("auroc", "auprc", "f1", "sensitivity", "specificity", "brier", "observed_to_expected")
METRICS_NOTE = (
    "Out-of-fold predictions of nested cross-validation. F1 at 0.5 calls a risk above one half positive; the "
    "threshold behind F1, sensitivity, specificity"
    " and precision was chosen on inner folds for the highest F1. AUROC: 0.5 chance, 1 perfect. ECE: mean "
    "gap between predicted and observed risk. O / E, observed over expected: above 1 means that risk was "
    "understated. Inner AUROC: on the inner folds alone, by which the model of the sections below was chosen."
)


def headline(report: Report, best: Evaluated, distilled: Distilled) -> None:
    """Four numbers."""
    student = distilled.judged[distilled.exported]
    risk = float(np.average(best.task.y, weights=best.task.weight))
    report.tiles(
        {
            "people analysed": f"{len(best.task.y):,}",
            "have the outcome": share(risk),
            f"AUROC of the chosen model, {model_name(best.model)}": number(best.scores["auroc"]),
            f"test AUROC of the exported student, {student.parameters:,} parameters": number(
                student.scores["auroc"]
            ),
        }
    )


def summary(report: Report, study: Study, best: Evaluated) -> None:
    """The main result in sentences."""
    s, low, high = best.scores, *best.interval
    risk = float(np.average(best.task.y, weights=best.task.weight))
    watched = f", watched for {best.months} months" if best.months else ""
    report.text(
        "In short",
        f"{len(best.task.y):,} people{watched}. Outcome: {study.outcome_after(best.task)}, in {risk:.1%}.",
        f"The model chosen on the inner folds ({model_name(best.model)}) ranks a person who has the outcome "
        f"above one who has not in {s['auroc']:.0%} of such pairs (95 % interval {low:.0%} to {high:.0%}; "
        "chance: 50 %).",
        f"At its threshold it finds {s['sensitivity']:.0%} of those who have the outcome and raises a false "
        f"alarm in {1 - s['specificity']:.0%} of those who have not; {s['precision']:.0%} of the people it "
        f"flags have the outcome. Observed over predicted risk: {s['observed_to_expected']:.2f} (1 is "
        "right).",
    )


def people(report: Report, study: Study, best: Evaluated) -> None:
    """Funnel, and what was left out of the tables."""
    rows = [*study.funnel, *[row for row in best.task.funnel if row[0] != "in the cohort"]]
    window = f", window of {best.months} months" if best.months else ""
    note = "Grey: left out at that step. Each condition is known on the day to which it applies."
    report.figure(f"Who was studied{window}", figures.funnel(rows), note=note)
    left_out = dict.fromkeys(study.rows, 0)
    for x in study.findings:
        left_out[x.table] += x.count
    cells = [(name, f"{rows:,}", f"{left_out[name]:,}") for name, rows in study.rows.items()]
    problems = "; ".join(str(x) for x in study.findings)
    note = (
        f"Found by the checks, left out unless said otherwise: {problems}."
        if problems
        else "Every row passed every check."
    )
    report.table("Records", ("table", "rows", "problems"), cells, note=note, half=True)


def models(report: Report, compared: list[Evaluated], main: list[Evaluated], seed: int) -> None:
    """Tables of models, their intervals, and windows."""
    columns = ("model", *METRICS.values(), "inner AUROC")
    rows = [
        [model_name(r.model), *(number(r.scores[m]) for m in METRICS), number(r.found.inner)] for r in main
    ]
    window = f" at {main[0].months} months" if main[0].months else ""
    report.table(f"Models compared{window}", columns, rows, note=METRICS_NOTE)
    rows = []
    for r in main:
        options = {"threshold": r.found.threshold, "seed": seed}
        found = score_intervals(r.task.y, r.found.p, r.task.weight, **options)
        rows.append([model_name(r.model), *(interval(found[m]) for m in INTERVALS)])
    columns = ("model", *(METRICS[m] for m in INTERVALS))
    report.table(f"95 % intervals{window}", columns, rows, note="Bootstrap over people, 200 rounds.")
    if not main[0].months:
        return
    shown = [
        [f"{r.months} months, {model_name(r.model)}", f"{len(r.task.y):,}", f"{int(r.task.y.sum()):,}"]
        + [number(r.scores["auroc"]), interval(r.interval), number(r.scores["auprc"])]
        + [number(r.scores["f1"]), number(r.scores["brier"])]
        for r in compared
    ]
    columns = ("window", "people", "outcomes", "AUROC", "95 % interval", "AUPRC", "F1", "Brier")
    note = (
        "Each window has its own people and outcome period: longer windows see more, but those who had the"
        " outcome early are gone. Compare rows of one window; for windows, see the table of the same "
        "people."
    )
    report.table("Observation windows", columns, shown, note=note)


def curves(report: Report, compared: list[Evaluated], main: list[Evaluated], best: Evaluated) -> None:
    """Discrimination, calibration, decision curves."""
    labelled = {model_name(r.model): r for r in main}
    if best.months:
        report.figure("Discrimination by window", figures.by_window(compared), note="Bars: 95 % intervals.")
        windows = {f"{r.months} months": r for r in compared if r.model == best.model}
        report.figure(f"ROC by window, {model_name(best.model)}", figures.roc(windows))
        report.figure(f"Precision and recall by window, {model_name(best.model)}", figures.pr(windows))
    report.figure("ROC by model", figures.roc(labelled))
    note = "Tenths of the people by predicted risk. On the line: risks mean what they say."
    report.figure("Calibration", figures.calibration(labelled), note=note)
    note = "Higher is better. A model is worth using where its line is above both grey and black."
    report.figure("Decision curves", figures.decision(labelled), note=note)


def lengths(report: Report, rows: list[Evaluated]) -> None:
    """The same people and outcome, seen for longer."""
    if not rows:
        return
    cells = [
        [f"{r.months} months", number(r.scores["auroc"]), interval(r.interval), number(r.scores["auprc"])]
        for r in rows
    ]
    note = (
        f"{len(rows[0].task.y):,} people eligible after the longest window and their outcome from then on; "
        f"{model_name(rows[0].model)} sees only the first months."
    )
    columns = ("seen", "AUROC", "95 % interval", "AUPRC")
    report.table("What a longer look adds, same people", columns, cells, note=note, half=True)


def sources(report: Report, ablation: dict[str, Evaluated], seed: int) -> None:
    """Clinical records, claims, both."""
    if not ablation:
        return
    rows = [
        [name, number(r.scores["auroc"]), interval(r.interval), number(r.scores["auprc"])]
        + [number(r.scores["brier"], 4)]
        for name, r in ablation.items()
    ]
    model = model_name(next(iter(ablation.values())).model)
    gains = "; ".join(
        f"both less {name}: {difference(*auroc_gain(ablation['both'], ablation[name], seed))}"
        for name in ("clinical", "claims")
    )
    note = f"The same people and folds, {model}; demographics are in all three. AUROC, {gains}."
    columns = ("records", "AUROC", "95 % interval", "AUPRC", "Brier")
    report.table("What each source of records adds", columns, rows, note=note, half=True)
