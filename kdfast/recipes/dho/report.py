"""DHO's report.html: scores, both heads and the search, calibration, the gradients' cosine."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING, Any

import matplotlib
import torch
from matplotlib.figure import Figure

from kdfast.recipes.common import sections
from kdfast.recipes.common.report import STYLE, Report
from kdfast.recipes.dho.calibration import calibration_error, reliability, reliability_figure
from kdfast.recipes.dho.inference import ALPHAS, BETAS, accuracy_grid, dho_predict

if TYPE_CHECKING:
    from kdfast.recipes.dho.options import Options
    from kdfast.recipes.dho.recipe import DhoStudy


def write_report(study: DhoStudy, share: dict[str, Any]) -> None:
    """Write OUT/report.html."""
    images, out = study.images, study.out
    report = Report("Dual-head optimization with few labels", subtitle=f"{images.source} · {out.path}")
    sizes = {name: sections.size(net.cpu(), images.example()) for name, net in study.networks.items()}
    sections.add_scores(report, study.scores, "test accuracy", sizes, note=_note(study))
    sections.add_curves(report, out, "val_accuracy", "Validation accuracy", ylabel="accuracy", percent=True,
                        note="During training with alpha = beta = 0.5.")  # fmt: skip
    _add_heads(report, study)
    _add_grid(report, study)
    _add_calibration(report, study)
    _add_cosine(report, study)
    sections.add_terms(report, out, note="ce is the supervised head's; before the terms' weights.")
    sections.add_step_times(report, out)
    small = "With few classes a call costs more than its arithmetic; kdfast bench kl_div shows larger sizes."
    sections.add_loss_share(report, share, note=small)
    sections.add_settings(report, study.options)
    report.write(out)


def _note(study: DhoStudy) -> str:
    images, options = study.images, study.options
    known = len(study.labeled(options.seed))
    train, held, test = (f"{len(part):,}" for part in (images.train, images.validation, images.test))
    return (
        f"Teacher: {study.teacher.name}. {train} training images, of which {known:,} have a label that is "
        f"known, {held} validation and {test} test images. All students take the same number of steps. "
        f"alpha and beta are {_source(options)}; the test images are looked at once, after training."
    )


def _source(options: Options) -> str:
    return "chosen on the validation images" if options.alpha == -1 else "fixed before the run"


def _add_heads(report: Report, study: DhoStudy) -> None:
    rows = [
        (seed, f"{found['alpha']:.2f}", f"{found['beta']:g}",
         *(f"{share:.1%}" for share in (*found["heads"].values(), found["accuracy"])))
        for seed, found in zip(study.options.seed_list(), study.findings["distilled"], strict=True)
    ]  # fmt: skip
    note = f"Test accuracy of each head and of their mixture; alpha and beta {_source(study.options)}."
    columns = ("seed", "alpha", "beta", "supervised", "distillation", "mixed")
    report.table("The two heads", columns, rows, note=note)


def _add_grid(report: Report, study: DhoStudy) -> None:
    """Validation accuracy of every alpha and beta, of the first seed."""
    a, b = study.scoring.logits("distilled", study.networks["distilled"], "validation")
    target = study.scoring.targets["validation"]
    found = [accuracy for *_, accuracy in accuracy_grid(a, b, target, ALPHAS, BETAS)]
    grid = torch.tensor(found).view(len(BETAS), len(ALPHAS))
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.add_subplot()
        shown = axes.imshow(100 * grid, aspect="auto", cmap="viridis")
        axes.set_xticks(range(0, len(ALPHAS), 4), [f"{alpha:.1f}" for alpha in ALPHAS[::4]])
        axes.set_yticks(range(len(BETAS)), [f"{beta:g}" for beta in BETAS])
        axes.set(xlabel="alpha, share of the supervised head", ylabel="beta")
        figure.colorbar(shown, label="accuracy, %")
        report.figure("Validation accuracy over alpha and beta", figure, note="First seed.")


def _add_calibration(report: Report, study: DhoStudy) -> None:
    """Expected calibration error and reliability on the test images, of the first seed."""
    target, lines, rows = study.scoring.targets["test"], {}, []
    for name, network in study.networks.items():
        if name == "teacher":
            probabilities = network.logits(study.teacher.embeddings("test")).softmax(1)
        else:
            first = study.findings.get(name, [{"alpha": 1.0, "beta": 1.0}])[0]
            logits = study.scoring.logits(name, network, "test")
            probabilities = dho_predict(*logits, first["alpha"], first["beta"])
        lines[sections.called(name)] = reliability(probabilities, target)
        confidence = float(probabilities.max(1).values.mean())
        rows.append(
            (sections.called(name), f"{calibration_error(probabilities, target):.3f}", f"{confidence:.1%}")
        )
    columns = ("network", "expected calibration error", "mean confidence")
    report.table("Calibration", columns, rows, half=True, note="Test images, 10 bins, first seed.")
    report.figure("Reliability", reliability_figure(lines), note="Dots are as large as their bins.")


def _add_cosine(report: Report, study: DhoStudy) -> None:
    """Do labels and teacher pull the backbone the same way?"""
    lines = sections.series(study.out, lambda record: record.get("gradient_cosine"))
    if not lines:
        return
    means = ", ".join(f"{sections.called(name)} {mean(y):+.3f}" for name, (_, y) in lines.items())
    note = (
        "Cosine between the backbone's gradients by the cross-entropy and by the KL terms, "
        f"on each epoch's first batch. Mean over epochs and seeds: {means}."
    )
    named = {sections.called(name): line for name, line in lines.items()}
    report.curves("Gradient conflict", named, ylabel="cosine", note=note)
