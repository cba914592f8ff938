"""Models against each other, windows, sources of records, eGFR equations: all by nested cross-validation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.distil import split_parts
from kdfast.recipes.esrd.evaluation import Predictions, auroc, bootstrap, nested_cv, scores, split
from kdfast.recipes.esrd.models import GRIDS, make_model
from kdfast.recipes.esrd.study import Study
from kdfast.recipes.esrd.tables import DataError

if TYPE_CHECKING:
    from kdfast.recipes.esrd.options import Options


@dataclass(frozen=True)
class Evaluated:
    """One model on one task, out of fold."""

    model: str
    months: int
    task: Task
    found: Predictions
    scores: dict[str, float]
    interval: tuple[float, float]  # of the AUROC


def main_task(study: Study, options: Options, **change: Any) -> Task:
    """The task of the main window."""
    return window_task(study, options, options.window, **change)


def window_task(study: Study, options: Options, months: int, **change: Any) -> Task:
    """The task of one window, as the options want it."""
    chosen = {
        "equation": int(options.equation),
        "race_feature": options.race_feature,
        "sources": study.sources,
    }
    chosen |= {"censoring": options.censoring, "death": options.death, **change}
    return study.task(months, options.horizon, **chosen)


def require_folds(study: Study, options: Options) -> None:
    """Before anything is trained: every window fills its outer and inner folds with both classes. DataError
    names the window and the counts.
    """
    for months in study.windows or (0,):
        task = window_task(study, options, months)
        groups = task.people["patient_id"].to_numpy()
        try:
            for train, _ in split(task.y, groups, options.folds, options.seed):
                split(task.y[train], groups[train], options.inner, options.seed)
            if months in (options.window, 0):
                split_parts(task, options.seed)
        except DataError as error:
            where = f"{months}-month window" if months else f"cohort {options.cohort}"
            raise DataError(f"{where}: {error}; lower --folds and --inner, or bring more people") from error


def compare_models(study: Study, options: Options, out: RunFolder) -> list[Evaluated]:
    """Every model at every window."""
    rows = []
    for months in study.windows or (0,):
        task = window_task(study, options, months)
        for model in options.model_list():
            rows.append(_evaluate(model, task, months, options, out, f"cv-{months}-{model}"))
            say(_line(rows[-1]))
    return rows


def best_of(rows: list[Evaluated], months: int) -> Evaluated:
    """The model that inner folds prefer at a window. Choosing by the outer folds would flatter the winner."""
    return max((r for r in rows if r.months in (months, 0)), key=lambda r: r.found.inner)


def compare_lengths(study: Study, options: Options, out: RunFolder) -> list[Evaluated]:
    """The probe model on the same people and the same outcome, that of the longest window, seen for 6
    months or more.
    """
    if study.cohort is None:
        return []
    whole = window_task(study, options, max(study.windows))
    found = []
    for months in study.windows:
        seen = replace(whole, x=whole.x[:, : study.cohort.steps(months)])
        found.append(_evaluate(options.probe(), seen, months, options, out, f"length-{months}"))
        say("same people   " + _line(found[-1]))
    return found


def compare_sources(study: Study, options: Options, out: RunFolder) -> dict[str, Evaluated]:
    """The probe model on clinical records, claims, and both. Empty where there are not both."""
    choices = {"clinical": ("clinical",), "claims": ("claims",), "both": study.sources}
    found = {}
    for name, sources in choices.items():
        task = main_task(study, options, sources=sources)
        if any(f.source in sources for f in task.features):
            found[name] = _evaluate(options.probe(), task, options.window, options, out, f"source-{name}")
            say(f"{name:<12}records  " + _line(found[name]))
    return found if len(found) == 3 else {}


def compare_equations(study: Study, options: Options, out: RunFolder) -> dict[str, Evaluated]:
    """A logistic model with eGFR by each equation, on the same people. Empty where there is no eGFR."""
    found = {}
    for equation in (2009, 2021):
        task = main_task(study, options, equation=equation, race_feature=False)
        if not any(f.name == f"egfr_{equation}" for f in task.features):
            return {}
        name = f"equation-{equation}"
        found[str(equation)] = _evaluate("logistic", task, options.window, options, out, name)
        say(f"equation {equation}  " + _line(found[str(equation)]))
    return found


def auroc_gain(a: Evaluated, b: Evaluated, seed: int) -> tuple[float, tuple[float, float]]:
    """AUROC of `a` less that of `b` for the same people, and its 95 % interval over the same resamples."""
    y, w = a.task.y, a.task.weight
    pair = bootstrap(
        lambda i: auroc(y[i], a.found.p[i], w[i]) - auroc(y[i], b.found.p[i], w[i]), len(y), seed=seed
    )
    return a.scores["auroc"] - b.scores["auroc"], pair


def _line(row: Evaluated) -> str:
    window = f"{row.months} months" if row.months else "one visit"
    interval = "{:.3f} to {:.3f}".format(*row.interval)
    return f"{window:<12}{row.model:<14}AUROC {row.scores['auroc']:.3f} ({interval})  n {len(row.task.y):,}"


def _evaluate(model: str, task: Task, months: int, options: Options, out: RunFolder, name: str) -> Evaluated:
    fixed = {"settings": options.settings(), "sizes": options.sizes(), "seed": options.seed}
    build = partial(make_model, model, task.features, **fixed)
    grid = GRIDS[model] if options.tune else [{}]
    fold = partial(nested_cv, task, build, grid, folds=options.folds, inner=options.inner, seed=options.seed)
    found = Predictions.from_json(out.result(name, lambda: fold().to_json()))
    y, p, w = task.y, found.p, task.weight
    interval = bootstrap(lambda i: auroc(y[i], p[i], w[i]), len(y), seed=options.seed)
    return Evaluated(model, months, task, found, scores(y, p, w, threshold=found.threshold), interval)
