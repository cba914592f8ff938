"""Teacher, students alone and distilled, their latency, and the distilled students as files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.esrd import distil as d
from kdfast.recipes.esrd import explain
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.export import Deployed, export_student
from kdfast.recipes.esrd.models import network_logits
from kdfast.recipes.esrd.steps.compare import main_task
from kdfast.recipes.esrd.study import Study

if TYPE_CHECKING:
    from kdfast.recipes.esrd.options import Options


@dataclass(frozen=True)
class Distilled:
    """Teacher and students on the test people."""

    task: Task
    parts: d.Parts
    judged: dict[str, d.Judged]
    latency: dict[str, list[float]]  # name -> ms for 1 and for 256 people
    exported: str  # the student in student.*
    parity: dict[str, dict[str, float]]  # student -> file -> largest difference from the module
    kan: dict[str, float]  # importance by feature; empty without a KAN
    curves: list[explain.Curve]  # of the KAN's most important features


def distil(study: Study, options: Options, out: RunFolder) -> Distilled:
    """All of it; the first of --students becomes student.*, the others student-KIND.*."""
    task = main_task(study, options)
    parts = d.split_parts(task, options.seed)
    sizes = options.settings(), options.sizes()
    teacher = cache(partial(d.fit_teacher, task, parts, options.teacher, *sizes, options.seed))
    answers = {k: np.asarray(v) for k, v in out.result("teacher", lambda: teacher().answers(task)).items()}
    say(f"teacher       {options.teacher}, cross-fitted on {len(parts.train):,} people")
    judged = {"teacher": d.judge("teacher", answers["logits"], task, parts, None, options.seed)}
    networks = _students(task, parts, answers["crossed"], options, out)
    for name, network in networks.items():
        logits = network_logits(network, task.x)
        judged[name] = d.judge(name, logits, task, parts, d.size_of(network), options.seed)
        say(f"{name:<20}test AUROC {judged[name].scores['auroc']:.3f}")
    best = {kind: f"{kind}-distilled-{options.seed}" for kind in options.student_list()}
    runs = {name: partial(network_logits, networks[name]) for name in best.values()}
    timed = {"teacher": lambda x: teacher().logits(x), **runs}
    latency = out.result("latency", lambda: d.latency(timed, task.x))
    parity = {}
    for i, (kind, name) in enumerate(best.items()):
        file = "student" if i == 0 else f"student-{kind}"
        parity[name] = _export(out, file, networks[name], judged[name], task, study)
    kan, curves = {}, []
    if "kan" in best:
        student = networks[best["kan"]]
        kan = explain.kan_importances(student, task.x[parts.train])
        slope = judged[best["kan"]].platt.slope
        curves = explain.kan_curves(student, task.x[parts.train], task.features, slope=slope)
    return Distilled(task, parts, judged, latency, next(iter(best.values())), parity, kan, curves)


def _students(
    task: Task, parts: d.Parts, teacher: np.ndarray, options: Options, out: RunFolder
) -> dict[str, nn.Module]:
    """KIND-alone-SEED and KIND-distilled-SEED, trained."""
    networks = {}
    settings, hidden = options.student_settings(), options.student_hidden
    for kind, seed, target in product(options.student_list(), options.seed_list(), (None, teacher)):
        if target is not None or options.baseline:
            name = f"{kind}-{'alone' if target is None else 'distilled'}-{seed}"
            networks[name] = d.fit_student(
                kind, task, parts, target, settings, options, out, name, seed, hidden
            )
    return networks


def _export(
    out: RunFolder, file: str, network: nn.Module, judged: d.Judged, task: Task, study: Study
) -> dict[str, float]:
    facts = {"recipe": "esrd", "student": judged.name, "window_months": task.months, "data": study.provenance}
    save_weights(out, f"{file}.safetensors", network, facts | {"calibration": asdict(judged.platt)})
    notes = facts | {"outcome": study.outcome, "horizon_months": task.horizon, "threshold": judged.threshold}
    notes["use"] = "research only, not a medical device"
    parity = export_student(out, file, Deployed(network, judged.platt), task.x, task.features, notes)
    gaps = ", ".join(f"{name} (largest difference {gap:.1e})" for name, gap in parity.items())
    say(f"exported      {file}: {gaps}")
    return parity
