"""Sections on fairness: subgroups, the two eGFR equations, misclassified people."""

from __future__ import annotations

from functools import partial

from kdfast.recipes.common.report import Report
from kdfast.recipes.esrd import fairness as f
from kdfast.recipes.esrd.grid import Feature
from kdfast.recipes.esrd.report.cells import difference, interval, number, share, share_within
from kdfast.recipes.esrd.report.labels import model_name, readable
from kdfast.recipes.esrd.steps import Evaluated, auroc_gain


def subgroups(report: Report, best: Evaluated, seed: int) -> None:
    """One row a group."""
    rows = f.subgroups(best.task, best.found, seed=seed)
    shown = [
        [f"{r.attribute}: {r.group}", f"{r.people:,}", share(r.prevalence), number(r.auroc)]
        + [interval(r.auroc_interval), share_within(r.fnr, r.fnr_interval)]
        + [share_within(r.fpr, r.fpr_interval), number(r.observed_to_expected, 2)]
        for r in rows
    ]
    odds = f.equalized_odds(best.task, best.found, seed=seed)
    gaps = "; ".join(
        f"{name}: {share_within(gap.tpr, gap.tpr_interval)} and {share_within(gap.fpr, gap.fpr_interval)}"
        for name, gap in odds.items()
    )
    columns = (
        "group",
        "people",
        "risk",
        "AUROC",
        "95 % interval",
        "missed",
        "false alarms",
        "observed / expected",
    )
    note = (
        f"Equalized odds, the largest gaps between groups in found cases and in false alarms: {gaps}. In "
        "parentheses: 95 % intervals. A gap is never below 0, so few cases make it look large."
    )
    report.table(f"For whom it works ({model_name(best.model)})", columns, shown, note=note if gaps else "")


def equations(report: Report, best: Evaluated, by_equation: dict[str, Evaluated], seed: int) -> None:
    """Stages and predictions by the equations of 2009 and 2021."""
    if not by_equation:
        return
    rows = f.reclassification(best.task.people)
    cells = [
        (f"{r['attribute']}: {r['group']}", f"{r['people']:,}", share(r["up"]), share(r["down"]))
        for r in rows
    ]
    columns = ("group", "people", "more advanced", "less advanced")
    note = "Shares of the people with an eGFR in the window, by the last one."
    report.table("CKD stage by 2021 instead of 2009", columns, cells, note=note)
    both = {year: f.subgroups(row.task, row.found, seed=seed) for year, row in by_equation.items()}
    whole = [row.scores for row in by_equation.values()]
    cells = [
        ["everybody", *(number(s["auroc"]) for s in whole), *(share(1 - s["sensitivity"]) for s in whole)]
        + [number(s["observed_to_expected"], 2) for s in whole]
    ]
    for pair in zip(*both.values(), strict=True):
        cells.append(
            [f"{pair[0].attribute}: {pair[0].group}", *(number(g.auroc) for g in pair)]
            + [*(share(g.fnr) for g in pair), *(number(g.observed_to_expected, 2) for g in pair)]
        )
    note = (
        "Logistic model, race not a feature, the same people and folds. Observed / expected above 1 in a "
        "group: its risk is understated, as when the equation makes its kidneys look better than they are."
    )
    gain = difference(*auroc_gain(by_equation["2021"], by_equation["2009"], seed))
    note += f" AUROC with the 2021 equation less that with 2009, on the same resampled people: {gain}."
    measures = ("AUROC", "missed", "observed / expected")
    columns = ("group", *(f"{measure}, {year}" for measure in measures for year in both))
    report.table("Prediction with either equation", columns, cells, note=note)


def misclassified(report: Report, best: Evaluated) -> None:
    """Means of the features in which missed cases or false alarms differ most."""
    rows = f.misclassified(best.task, best.found)
    features = {feature.name: feature for feature in best.task.features}
    cells = []
    for row in rows:
        feature = features[row["feature"].split(" (")[0]]
        shown = share if feature.flag else partial(number, digits=2)
        unit = _unit(feature, row["feature"])
        cells.append((readable(row["feature"]) + unit, *(shown(row[k]) for k in ("FN", "TP", "FP", "TN"))))
    columns = ("mean of", "missed", "found", "false alarms", "true negatives")
    note = "Features in which missed and found cases, or false alarms and true negatives, differ most."
    report.table("Who is misclassified", columns, cells, note=note)


def _unit(feature: Feature, name: str) -> str:
    """ ", g/dL"; a slope is a year's."""
    if feature.unit in ("", "claims"):
        return ""
    return f", {feature.unit}/year" if name.endswith("(slope)") else f", {feature.unit}"
