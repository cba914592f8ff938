"""Sections on explanations, on the students, and the model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdfast.recipes.common.report import Report
from kdfast.recipes.esrd.distil import gain_interval
from kdfast.recipes.esrd.report import card, figures
from kdfast.recipes.esrd.report.cells import difference, interval, number, share, stage
from kdfast.recipes.esrd.report.labels import model_name, readable
from kdfast.recipes.esrd.steps import Distilled, Evaluated, Explained
from kdfast.recipes.esrd.study import Study

if TYPE_CHECKING:
    from kdfast.recipes.esrd.options import Options

MEASURES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "ece": "ECE",
    "observed_to_expected": "O / E",
    "f1": "F1",
}


def explanations(report: Report, explained: Explained, best: Evaluated) -> None:
    """Shapley values and expected gradients."""
    if explained.shap is not None:
        name, found = explained.shap
        note = "Red: high values of the feature, blue: low, grey: not measured. One dot a person."
        report.figure(f"What drives the risk ({model_name(name)})", figures.beeswarm(found), note=note)
    if explained.gradients is not None:
        name, values, total = explained.gradients
        note = "Expected gradients of the logit, mean size over people."
        if best.months:
            figure = figures.over_time(values, [readable(n) for n in total.names], best.months)
            report.figure(f"What counts when ({model_name(name)})", figure, note=note)
        else:
            figure = figures.bars(
                {readable(k): v for k, v in total.importance().items()}, "mean |attribution| (log odds)"
            )
            report.figure(f"What counts ({model_name(name)})", figure, note=note)


def distillation(report: Report, found: Distilled, options: Options) -> None:
    """Students beside their teacher: accuracy, calibration, latency."""
    rows = []
    for name, row in found.judged.items():
        scores = [number(row.scores[m]) for m in MEASURES]
        size = f"{row.parameters:,}" if row.parameters else "-"
        rows.append([stage(name), size, *scores, interval(row.interval), _gain(found, name, options.seed)])
    sizes = "{:,}, {:,} and {:,}".format(*(len(p) for p in found.parts))
    note = (
        f"{sizes} training, validation and test people; teacher: {options.teacher}. Students learn from the "
        f"labels and from the teacher's cross-fitted answers (share {options.alpha:g})."
    )
    weak = [stage(name) for name, row in found.judged.items() if not row.interval[0] > 0.5]
    if weak:
        note += f" Not shown to be better than chance, so not for use: {'; '.join(weak)}."
    columns = ("model", "parameters", *MEASURES.values(), "95 % interval", "gain over alone")
    report.table("Small students", columns, rows, note=note)
    times = [(stage(name), number(ms[0], 2), number(ms[1], 2)) for name, ms in found.latency.items()]
    note = "Medians on one CPU thread, from raw cells to a logit, interleaved."
    report.table("Time for a prediction", ("model", "1 person, ms", "256 people, ms"), times, note=note)
    if found.kan:
        sizes = {readable(name): size for name, size in found.kan.items()}
        note = "Spread of each feature's curve among the training people."
        report.figure("What the KAN reads", figures.bars(sizes, "spread (log odds)"), note=note)
        note = (
            "The whole model is the sum of such curves, one a feature; these six matter most. Up: more risk "
            "than the average person's."
        )
        report.figure("How the KAN reads it", figures.curves(found.curves), note=note)


def _gain(found: Distilled, name: str, seed: int) -> str:
    """AUROC of a distilled student less that of its twin trained alone, with interval."""
    row, twin = found.judged[name], found.judged.get(name.replace("distilled", "alone"))
    if "distilled" not in name or twin is None:
        return ""
    gain = row.scores["auroc"] - twin.scores["auroc"]
    return difference(gain, gain_interval(row, twin, found.task, found.parts, seed))


def model_card(report: Report, study: Study, best: Evaluated, found: Distilled, options: Options) -> None:
    """Model card and the published result, as published."""
    student, test = found.judged[found.exported], found.task.y[found.parts.test]
    kinds = ", ".join(found.parity[found.exported])
    facts = card.Facts(
        outcome=study.outcome_after(found.task),
        people=_people(best),
        features=len(found.task.features),
        steps=found.task.x.shape[1],
        student=f"{stage(found.exported)}, {student.parameters:,} parameters; student.*: weights, {kinds}",
        performance=f"AUROC {number(student.scores['auroc'])} ({interval(student.interval)}) on "
        f"{len(test):,} test people, {test.sum():,} of them with the outcome",
        teacher=options.teacher,
        race=_race(best, options),
    )
    parity = "; ".join(
        f"{stage(name)}: " + ", ".join(f"{kind} {gap:.1e}" for kind, gap in gaps.items())
        for name, gaps in found.parity.items()
    )
    lines = [f"{name}: {text}" for name, text in card.card(study, facts).items()]
    report.text("Model card", *lines, f"Exported files against the module, largest difference: {parity}")
    report.text("The published result", card.PUBLISHED)


def _race(best: Evaluated, options: Options) -> str:
    people = best.task.people
    if "race" not in people.columns or people["race"].n_unique() < 2:
        return "not recorded in these data"
    return "a feature" if options.race_feature else "no feature; it can enter through the 2009 equation only"


def _people(best: Evaluated) -> str:
    """Who the people were: number, age, women, races."""
    people, n = best.task.people, len(best.task.y)
    parts = [f"{n:,}"]
    if "age" in people.columns and people["age"].count():
        low, middle, high = (people["age"].quantile(q) for q in (0.05, 0.5, 0.95))
        parts.append(f"age {middle:.0f} (5 to 95 %: {low:.0f} to {high:.0f})")
    if "female" in people.columns:
        parts.append(f"{share(people['female'].mean())} women")
    if "race" in people.columns and people["race"].n_unique() > 1:
        counts = people["race"].value_counts(sort=True).rows()
        parts.append(", ".join(f"{share(count / n)} {race}" for race, count in counts))
    return "; ".join(parts)
