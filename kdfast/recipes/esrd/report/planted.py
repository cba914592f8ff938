"""Section on synthetic people: what was planted, and what the study found of it."""

from __future__ import annotations

from kdfast.recipes.common.report import Report
from kdfast.recipes.esrd import recovery as r
from kdfast.recipes.esrd.report.cells import number
from kdfast.recipes.esrd.report.labels import model_name, readable
from kdfast.recipes.esrd.steps import Evaluated, Explained
from kdfast.recipes.esrd.study import Study
from kdfast.recipes.esrd.synthetic import EFFECTS


def planted(
    report: Report,
    study: Study,
    best: Evaluated,
    ablation: dict[str, Evaluated],
    by_equation: dict[str, Evaluated],
    explained: Explained,
) -> None:
    """Two tables; nothing unless the people are synthetic."""
    if study.truth is None:
        return
    report.table(
        "Against the true risks",
        ("", "value"),
        _rows(study, best, ablation, by_equation),
        note="Each synthetic person's true risk is known. Expected AUROC: of outcomes drawn from the true "
        "risks again and again, so without the luck of this draw; that of the true risks is the limit.",
        half=True,
    )
    if explained.shap is not None:
        sizes = r.importance_of_causes(explained.shap[1])
        cells = [(readable(n), number(EFFECTS.get(n, 0.0), 2), number(v, 3)) for n, v in sizes.items()]
        note = (
            "Planted: log odds a quarter for 10 mL/min/1.73 m² below 40, a unit of log albuminuria, an "
            "illness, an admission a year. Found: mean size of the Shapley values of features that see it. "
            "Trees also split on noise, so what means nothing is not exactly 0."
        )
        columns = ("cause", "planted", f"found ({model_name(explained.shap[0])})")
        report.table("Causes planted and found", columns, cells, note=note, half=True)


def _rows(
    study: Study, best: Evaluated, ablation: dict[str, Evaluated], by_equation: dict[str, Evaluated]
) -> list[tuple[str, str]]:
    risk = r.true_risk(study, best.task)
    rows = [("expected AUROC of the true risks", number(r.expected_auroc(risk, risk)))]
    rows.append((f"expected AUROC of {model_name(best.model)}", number(r.expected_auroc(risk, best.found.p))))
    for name, row in ablation.items():
        value = r.expected_auroc(r.true_risk(study, row.task), row.found.p)
        rows.append((f"expected AUROC, {model_name(row.model)}, {name} records", number(value)))
    for year, row in by_equation.items():
        true = r.true_risk(study, row.task)
        ratios = r.true_to_predicted(true, row.found.p, row.task.people["black"].to_numpy())
        for race, ratio in ratios.items():
            rows.append((f"true / predicted risk, {year} equation, {race}", number(ratio, 2)))
    return rows
