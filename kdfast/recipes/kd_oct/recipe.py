"""`kdfast distill kd_oct`: every fold's teacher, student alone and distilled student, tested; the report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from kdfast.recipes.common import models
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.kd_oct import views
from kdfast.recipes.kd_oct.folds import Fold, check_folds, digest, patient_folds, written
from kdfast.recipes.kd_oct.measure import costs, export
from kdfast.recipes.kd_oct.metrics import fold_metrics
from kdfast.recipes.kd_oct.oct_data import OctSet, View, load
from kdfast.recipes.kd_oct.options import Options
from kdfast.recipes.kd_oct.report import write_report
from kdfast.recipes.kd_oct.results import Results
from kdfast.recipes.kd_oct.train import Bench, read_teacher, train_student, train_teacher

FOLDS = "folds.json"


def make_folds(options: Options, data: OctSet) -> list[Fold]:
    """The folds of `data`: its own split, or --folds by patient; checked for leaks.

    Raises:
        UserError: too few patients, a class missing in a part, a patient in two parts.
    """
    if data.given is not None:
        folds = data.given
    else:
        rows = data.rows()
        labels, patients = ([column[row] for row in rows] for column in (data.labels, data.patients))
        made = patient_folds(labels, patients, count=options.folds, seed=options.split_seed)
        folds = [Fold(*([rows[place] for place in part] for part in fold)) for fold in made]
    check_folds(folds, data.labels, data.patients, data.classes)
    tested = {data.patients[row] for row in data.extra}
    seen = sorted(tested & {data.patients[row] for fold in folds for row in fold.train})
    if seen:
        raise UserError(f"patient {seen[0]} is in the folds and in the official test set")
    return folds[: options.first_folds or None]


def run(options: Options, out: RunFolder) -> None:
    """All folds; student.safetensors (first fold, first seed), folds.json, cv_results.csv, report.html."""
    for role in ("teacher", "student"):
        models.parse(f"--{role}", getattr(options, role))
    data = load(options.data, size=options.image_size, skip_bad=options.skip_bad)
    if data.bad:
        say(f"left out {len(data.bad)} images that cannot be read: {', '.join(data.bad[:3])}")
    bench = Bench(options, out, data)
    folds = make_folds(options, data)
    text = written(folds, data.names)
    out.write(FOLDS, text)
    results = Results(digest(text))
    for number, fold in enumerate(folds):
        teacher = _teacher(bench, number, fold, results)
        for seed in options.seed_list():
            if options.baseline:
                module = train_student(bench, f"student-{number}-{seed}", fold, seed, None)
                _test(bench, results, "student", f"student-{number}-{seed}", module.selection.best, fold)
            module = train_student(bench, f"distilled-{number}-{seed}", fold, seed, teacher)
            student = module.selection.best.eval()
            _test(bench, results, "distilled", f"distilled-{number}-{seed}", student, fold)
            results.networks.setdefault("distilled", student)
            results.distillers.setdefault("distilled", module.network)
    spec = models.parse("--student", options.student)
    facts = _facts(bench, spec.name, results.folds)
    save_weights(out, "student.safetensors", results.networks["distilled"], facts)
    example = bench.view(folds[0].test[:8], "none")
    images = torch.stack([example[i][0] for i in range(len(example))])
    for name in ("teacher", "distilled"):
        network = results.networks[name]
        results.costs[name] = out.result(
            f"{name}-costs", lambda network=network: costs(network, images[:1], device=options.torch_device())
        )
    if options.export:
        results.parity = out.result("export", lambda: export(out, results.networks["distilled"], images))
    out.write("cv_results.csv", results.csv())
    write_report(bench, results, folds)


def _facts(bench: Bench, network: str, folds: str) -> dict[str, object]:
    data, options = bench.data, bench.options
    return {
        "recipe": "kd_oct", "network": network, "classes": len(data.classes), "channels": 3,
        "size": options.image_size, "labels": ", ".join(data.classes), "data": data.source, "folds": folds,
    }  # fmt: skip


def _teacher(bench: Bench, number: int, fold: Fold, results: Results) -> nn.Module:
    """The fold's teacher, tested: of best epoch and averaged weights the better one on validation."""
    options = bench.options
    if options.teacher_run:
        chosen = read_teacher(bench, number, results.folds)
        _test(bench, results, "teacher", f"teacher-{number}", chosen, fold)
    else:
        found = train_teacher(bench, number, fold)
        held = {
            name: _validation(bench, f"teacher-{number}-{name}", net, fold) for name, net in found.items()
        }
        for name, network in found.items():
            _test(bench, results, f"teacher, {name}", f"teacher-{number}-{name}", network, fold)
        best = max(held, key=held.get)
        chosen = found[best]
        say(f"teacher-{number}: {best} it is, by validation ({held[best]:.1%})")
        results.chosen.append(best)
        _test(bench, results, "teacher", f"teacher-{number}-{best}", chosen, fold)
    if options.tta:
        _test(bench, results, "teacher, 5 views", f"teacher-{number}-views", chosen, fold, several=True)
    facts = _facts(bench, models.parse("--teacher", options.teacher).name, results.folds)
    save_weights(bench.out, f"teacher-{number}.safetensors", chosen, facts)
    results.networks.setdefault("teacher", chosen)
    return chosen


def _validation(bench: Bench, stage: str, network: nn.Module, fold: Fold) -> float:
    def compute() -> float:
        logits, labels = predict(network, bench.view(fold.validation, "none"), bench.options)
        return float((logits.argmax(1) == labels).mean())

    return bench.out.result(f"{stage}-validation", compute)


def _test(
    bench: Bench,
    results: Results,
    name: str,
    stage: str,
    network: nn.Module,
    fold: Fold,
    *,
    several: bool = False,
) -> None:
    """Test scores of a finished network, kept with its probabilities under `name`."""
    options, data = bench.options, bench.data

    def compute() -> dict[str, Any]:
        kinds = views.test_views(options.image_size) if several else [views.plain(options.image_size)]
        found: dict[str, Any] = {}
        for key, rows in (("", fold.test), ("extra ", data.extra)):
            if rows:
                runs = [predict(network, View(data, rows, kind), options) for kind in kinds]
                labels = runs[0][1]
                probabilities = _softmax(np.mean([logits for logits, _ in runs], axis=0))
                found |= {
                    key + metric: value for metric, value in fold_metrics(probabilities, labels).items()
                }
                found |= {
                    key + "probabilities": probabilities.round(6).tolist(),
                    key + "labels": labels.tolist(),
                }
        return found

    found = bench.out.result(f"{stage}-test", compute)
    results.folds_of.setdefault(name, []).append(found)
    if name in ("teacher", "student", "distilled"):
        say(f"{stage:<18} test accuracy {found['accuracy']:.1%}, sensitivity {found['sensitivity']:.1%}")


@torch.no_grad()
def predict(network: nn.Module, samples: View, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, K] float64 and labels [N]."""
    device = options.torch_device()
    network = network.to(device).eval()
    parts = [
        (network(images.to(device)).double().cpu(), target)
        for images, target in DataLoader(samples, options.batch_size, num_workers=options.workers)
    ]
    network.cpu()
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits).numpy(), torch.cat(labels).numpy()


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)
