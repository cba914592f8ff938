"""Sections on explanations, on the students, and the model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdfast.recipes.common.report import Report
from kdfast.recipes.esrd.distil import gain_interval
from kdfast.recipes.esrd.report import card, figures
from kdfast.recipes.esrd.report.cells import interval, number, stage
from kdfast.recipes.esrd.steps import Distilled, Evaluated, Explained
from kdfast.recipes.esrd.study import Study

if TYPE_CHECKING:
    from kdfast.recipes.esrd.recipe import Options


def explanations(report: Report, explained: Explained, best: Evaluated) -> None:
    """Shapley values and expected gradients."""
    if explained.shap is not None:
        name, found = explained.shap
        note = "Red: high values of the feature, blue: low, grey: not measured. One dot a person."
        report.figure(f"What drives the risk ({name})", figures.beeswarm(found), note=note)
    if explained.gradients is not None:
        name, values, total = explained.gradients
        note = "Expected gradients of the logit, mean size over people."
        if best.months:
            figure = figures.over_time(values, total.names, best.months)
            report.figure(f"What counts when ({name})", figure, note=note)
        else:
            figure = figures.bars(total.importance(), "mean |attribution| (log odds)")
            report.figure(f"What counts ({name})", figure, note=note)


def distillation(report: Report, found: Distilled, options: Options) -> None:
    """Students beside their teacher: accuracy, calibration, latency."""
    rows = []
    for name, row in found.judged.items():
        scores = [number(row.scores[m]) for m in ("auroc", "auprc", "brier", "ece", "f1")]
        size = f"{row.parameters:,}" if row.parameters else "-"
        rows.append([stage(name), size, *scores, interval(row.interval), _gain(found, name, options.seed)])
    sizes = "{:,}, {:,} and {:,}".format(*(len(p) for p in found.parts))
    note = (
        f"{sizes} training, validation and test people; teacher: {options.teacher}. Students learn from the "
        f"labels and from the teacher's cross-fitted answers (share {options.alpha:g})."
    )
    if "kan" in options.student_list() and not found.kan:
        note += " The KAN student was left out: this kdfast has no kdfast.nn.KAN."
    columns = (
        "model",
        "parameters",
        "AUROC",
        "AUPRC",
        "Brier",
        "ECE",
        "F1",
        "95 % interval",
        "gain over alone",
    )
    report.table("Small students", columns, rows, note=note)
    times = [(stage(name), number(ms[0], 2), number(ms[1], 2)) for name, ms in found.latency.items()]
    note = "Medians on one CPU thread, from raw cells to a logit, interleaved."
    report.table(
        "Time for a prediction", ("model", "1 person, ms", "256 people, ms"), times, note=note, half=True
    )
    if found.kan:
        report.figure("What the KAN reads", figures.bars(found.kan, "mean size of its curve (log odds)"))


def _gain(found: Distilled, name: str, seed: int) -> str:
    """AUROC of a distilled student less that of its twin trained alone, with interval."""
    row, twin = found.judged[name], found.judged.get(name.replace("distilled", "alone"))
    if "distilled" not in name or twin is None:
        return ""
    low, high = gain_interval(row, twin, found.task, found.parts, seed)
    return f"{row.scores['auroc'] - twin.scores['auroc']:+.3f} ({low:+.3f}\u2060\u2013\u2060{high:+.3f})"


def model_card(report: Report, study: Study, found: Distilled, options: Options) -> None:
    """Model card and the published result, as published."""
    size = found.judged[found.exported].parameters
    facts = card.Facts(
        features=len(found.task.features),
        steps=found.task.x.shape[1],
        student=f"{stage(found.exported)}, {size:,} parameters (student.safetensors, .pt2, .onnx)",
        teacher=options.teacher,
        race=options.race_feature,
    )
    parity = ", ".join(f"{name} {gap:.1e}" for name, gap in found.parity.items())
    lines = [f"{name}: {text}" for name, text in card.card(study, facts).items()]
    report.text("Model card", *lines, f"Exported files against the module, largest difference: {parity}")
    report.text("The published result", card.PUBLISHED)
