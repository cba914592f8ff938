"""The steps of a run, each kept in OUT once it is done: comparison, ablation, equations, explanation,
distillation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.esrd import distil as d
from kdfast.recipes.esrd import explain
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.evaluation import Predictions, auroc, bootstrap, nested_cv, scores
from kdfast.recipes.esrd.export import Deployed, export_student
from kdfast.recipes.esrd.models import GRIDS, TABULAR, TREES, make_model
from kdfast.recipes.esrd.models.students import kan_available
from kdfast.recipes.esrd.study import Study

if TYPE_CHECKING:
    from kdfast.recipes.esrd.recipe import Options

EXPLAINED, NETWORK_EXPLAINED, BACKGROUND = 150, 60, 100  # people


@dataclass(frozen=True)
class Evaluated:
    """One model on one task, out of fold."""

    model: str
    months: int
    task: Task
    found: Predictions
    scores: dict[str, float]
    interval: tuple[float, float]  # of the AUROC


@dataclass(frozen=True)
class Explained:
    """shap: tree model, Shapley values; gradients: network, attributions [n, T, F], their sum over time."""

    shap: tuple[str, explain.Explanation] | None
    gradients: tuple[str, np.ndarray, explain.Explanation] | None


@dataclass(frozen=True)
class Distilled:
    """Teacher and students on the test people; `exported` names the student in the files."""

    task: Task
    parts: d.Parts
    judged: dict[str, d.Judged]
    latency: dict[str, list[float]]  # name -> ms for 1 and for 256 people
    exported: str
    parity: dict[str, float]
    kan: dict[str, float]  # importance by feature; empty without a KAN


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


def compare_models(study: Study, options: Options, out: RunFolder) -> list[Evaluated]:
    """Every model at every window, by nested cross-validation."""
    rows = []
    for months in study.windows or (0,):
        task = window_task(study, options, months)
        for model in options.model_list():
            rows.append(_evaluate(model, task, months, options, out, f"cv-{months}-{model}"))
            say(_line(rows[-1]))
    return rows


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


def compare_sources(study: Study, options: Options, out: RunFolder) -> dict[str, Evaluated]:
    """The probe model on clinical records, claims, and both."""
    choices = {"clinical": ("clinical",), "claims": ("claims",), "both": study.sources}
    found = {}
    for name, sources in choices.items():
        task = main_task(study, options, sources=sources)
        if any(f.source in sources for f in task.features):
            found[name] = _evaluate(options.probe(), task, options.window, options, out, f"source-{name}")
            say(f"{name:<12}records  " + _line(found[name]))
    return found if len(found) == 3 else {}


def compare_equations(study: Study, options: Options, out: RunFolder) -> dict[str, Evaluated]:
    """The probe model with eGFR by each equation, on the same people. Empty where there is no eGFR."""
    found = {}
    for equation in (2009, 2021):
        task = main_task(study, options, equation=equation, race_feature=False)
        if not any(f.name == f"egfr_{equation}" for f in task.features):
            return {}
        found[str(equation)] = _evaluate(
            "logistic", task, options.window, options, out, f"equation-{equation}"
        )
        say(f"equation {equation}  " + _line(found[str(equation)]))
    return found


def explain_models(study: Study, options: Options) -> Explained:
    """The first tree model by Shapley values, the last network by expected gradients, at the main window."""
    task = main_task(study, options)
    rows = np.random.default_rng(options.seed).permutation(len(task.y))[:EXPLAINED]
    names = options.model_list()
    tree = next((name for name in names if name in TREES), None)
    network = next((name for name in reversed(names) if name not in TABULAR), None)
    build = partial(make_model, features=task.features, settings=options.settings(), sizes=options.sizes())
    shap = gradients = None
    if tree is not None:
        model = build(tree, seed=options.seed).fit(task.x, task.y, task.weight)
        shap = (tree, explain.tree_shap(model, task.x[rows]))
        say(f"explained     {tree} by Shapley values")
    if network is not None:
        model = build(network, seed=options.seed).fit(task.x, task.y, task.weight)
        background = task.x[:: max(1, len(task.x) // BACKGROUND)]
        people = task.x[rows[:NETWORK_EXPLAINED]]
        values, total = explain.explain_network(
            model.network_, people, background, task.features, draws=BACKGROUND
        )
        gradients = (network, values, total)
        say(f"explained     {network} by expected gradients")
    return Explained(shap, gradients)


def distil(study: Study, options: Options, out: RunFolder) -> Distilled:
    """Teacher, students alone and distilled, their latency, the exported student."""
    task = main_task(study, options)
    parts = d.split_parts(task, options.seed)
    teacher = d.fit_teacher(task, parts, options.teacher, options.settings(), options.sizes(), options.seed)
    say(f"teacher       {options.teacher}, cross-fitted on {len(parts.train):,} people")
    judged = {"teacher": d.judge("teacher", teacher.logits, task, parts, None, options.seed)}
    kinds = [kind for kind in options.student_list() if kind != "kan" or kan_available()]
    if len(kinds) < len(options.student_list()):
        say("student kan   left out: this kdfast has no kdfast.nn.KAN")
    networks = {}
    for kind, seed, target in product(kinds, options.seed_list(), (None, teacher.crossed)):
        if target is None and not options.baseline:
            continue
        name = f"{kind}-{'alone' if target is None else 'distilled'}-{seed}"
        settings, hidden = options.student_settings(), options.student_hidden
        network = d.fit_student(kind, task, parts, target, settings, options, out, name, seed, hidden)
        judged[name] = d.judge(name, d.runner(network), task, parts, d.size_of(network), options.seed)
        networks[name] = network
        say(f"{name:<20}test AUROC {judged[name].scores['auroc']:.3f}")
    best = {kind: f"{kind}-distilled-{options.seed}" for kind in kinds}
    runs = {"teacher": teacher.logits, **{name: d.runner(networks[name]) for name in best.values()}}
    latency = out.result("latency", lambda: d.latency(runs, task.x))
    exported = next(iter(best.values()))
    parity = _export(out, networks[exported], judged[exported], task, study)
    curves = {}
    if "kan" in best:
        curves = explain.kan_importances(networks[best["kan"]], task.x[parts.train])
    return Distilled(task, parts, judged, latency, exported, parity, curves)


def _export(
    out: RunFolder, network: nn.Module, judged: d.Judged, task: Task, study: Study
) -> dict[str, float]:
    facts = {"recipe": "esrd", "student": judged.name, "window_months": task.months, "data": study.provenance}
    save_weights(out, "student.safetensors", network, facts | {"calibration": asdict(judged.platt)})
    notes = facts | {"outcome": study.outcome, "horizon_months": task.horizon, "threshold": judged.threshold}
    notes["use"] = "research only, not a medical device"
    parity = export_student(out, Deployed(network, judged.platt), task.x, task.features, notes)
    say(
        "exported      " + ", ".join(f"{name} (largest difference {gap:.1e})" for name, gap in parity.items())
    )
    return parity
