"""report.html of `kdfast distill esrd`, for a clinician: who was studied, how well, for whom, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.sections import add_settings
from kdfast.recipes.esrd.report import card, groups, results, students
from kdfast.recipes.esrd.report.planted import planted
from kdfast.recipes.esrd.steps import Distilled, Evaluated, Explained, best_of
from kdfast.recipes.esrd.study import Study

if TYPE_CHECKING:
    from kdfast.recipes.esrd.options import Options


def write_report(
    out: RunFolder,
    options: Options,
    study: Study,
    compared: list[Evaluated],
    lengths: list[Evaluated],
    ablation: dict[str, Evaluated],
    by_equation: dict[str, Evaluated],
    explained: Explained,
    distilled: Distilled,
) -> None:
    """All sections, then the file."""
    report = Report(study.title, subtitle=f"{study.outcome_after(compared[0].task)} · {study.provenance}")
    report.text("Read this first", card.WARNING, *([card.SYNTHETIC_NOTE] if study.truth is not None else []))
    main = [row for row in compared if row.months in (options.window, 0)]
    best = best_of(compared, options.window)
    results.headline(report, best, distilled)
    results.summary(report, study, best)
    results.people(report, study, best)
    results.models(report, compared, main, options.seed)
    results.curves(report, compared, main, best)
    results.lengths(report, lengths)
    results.sources(report, ablation, options.seed)
    groups.subgroups(report, best, options.seed)
    groups.equations(report, best, by_equation, options.seed)
    students.explanations(report, explained, best)
    groups.misclassified(report, best)
    planted(report, study, best, ablation, by_equation, explained)
    students.distillation(report, distilled, options)
    students.model_card(report, study, best, distilled, options)
    add_settings(report, options)
    report.write(out)
