"""`kdfast distill esrd`: the order of the steps. What a step does is in steps/, what it shows in report/."""

from __future__ import annotations

import torch

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.esrd import steps
from kdfast.recipes.esrd.load import load_study
from kdfast.recipes.esrd.options import Options
from kdfast.recipes.esrd.report import write_report
from kdfast.recipes.esrd.study import Study


def run(options: Options, out: RunFolder) -> None:
    """Cohort, comparison, explanation, distillation, report. A resumed run repeats no finished step."""
    if options.threads == 0:
        torch.set_num_threads(1)  # small networks: more threads only wait for each other
    study = load_study(options)
    _announce(study, options)
    steps.require_folds(study, options)
    compared = steps.compare_models(study, options, out)
    lengths = steps.compare_lengths(study, options, out)
    ablation = steps.compare_sources(study, options, out)
    equations = steps.compare_equations(study, options, out)
    explained = steps.explain_models(study, options, out)
    distilled = steps.distil(study, options, out)
    write_report(out, options, study, compared, lengths, ablation, equations, explained, distilled)


def _announce(study: Study, options: Options) -> None:
    """The funnel down to the people of the main window, and what the checks found."""
    window = [line for line in steps.main_task(study, options).funnel if line[0] != "in the cohort"]
    for line, count in [*study.funnel, *window]:
        say(f"{line:<76}{count:>9,}")
    for finding in study.findings:
        say(str(finding))
