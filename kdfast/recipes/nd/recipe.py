"""`kdfast distill nd`: teacher, class means, students alone and under each method, their report."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

import kdfast
from kdfast.distill.cache_settings import fingerprint
from kdfast.recipes.common.classify import Distilled
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.network_parts import expose_embedding
from kdfast.recipes.common.seeds import seed_all
from kdfast.recipes.common.study import Build, Study
from kdfast.recipes.nd.deit import DistilledDeiT, deit_distiller
from kdfast.recipes.nd.diagnostics import add_norms
from kdfast.recipes.nd.means import class_means, load_means, save_means
from kdfast.recipes.nd.methods import distiller, plain_losses
from kdfast.recipes.nd.options import Options

MEANS = "class-means.safetensors"
__all__ = ["Options", "run"]


def run(options: Options, out: RunFolder) -> None:
    """Teacher, class means, students; student.safetensors (first method, first seed) and report.html."""
    study = Study("nd", options, out)
    teacher = study.teacher()
    means = _means(study, teacher) if any(name.endswith("++") for name in options.methods()) else None
    deit = "deit++" in options.methods()
    study.module = partial(DistilledDeiT if deit else Distilled, whole_epochs=True)
    study.compare({name: _build(study, name, means) for name in options.methods()})
    first = options.methods()[0]
    plain = {} if deit else plain_losses(first, options.weights(first), means)
    report = study.report(
        "Norm and direction: " + ", ".join(options.methods()), text=_text(options),
        plain=None if deit else plain,
        share_note="With few classes a call costs more than its arithmetic; see kdfast bench nd_loss.",
        more=lambda report: add_norms(report, study),
    )  # fmt: skip
    report.write(out)


def _build(study: Study, method: str, means: Tensor | None) -> Build:
    """(student, teacher, rows) -> the Distiller of `method`."""
    options = study.options

    def build(student: nn.Module, teacher: nn.Module, rows: list[int]) -> kdfast.Distiller:
        weights, dtype = options.weights(method), options.teacher_dtype()
        try:
            if method == "deit++":
                smoothing = options.smoothing
                return deit_distiller(
                    student, teacher, means, nd=weights.nd, smoothing=smoothing, teacher_dtype=dtype
                )
            return distiller(
                method, student, teacher, class_means=means, weights=weights, example=study.images.example(),
                teacher_dtype=dtype,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"--method {method}: {error}") from error

    return build


def _means(study: Study, teacher: nn.Module) -> Tensor:
    """The class means [K, D]: this run's file, the file given, or one pass over the training images."""
    options, images, out = study.options, study.images, study.out
    path, dim = expose_embedding(teacher)
    weights = fingerprint(teacher)
    own = out.path / MEANS
    if own.exists() or options.class_means:
        file = str(own) if own.exists() else options.class_means
        return load_means(file, classes=len(images.classes), dim=dim, teacher=weights).compute()
    seed_all(options.seed, "class-means")
    provenance = {
        "teacher": study.specs["teacher"].name, "fingerprint": weights, "data": images.source,
        "transform": options.augment, "layer": path,
    }  # fmt: skip
    means = class_means(
        teacher, path, images.train, classes=len(images.classes), augment=images.augment,
        batch_size=options.batch_size, workers=options.workers, device=options.torch_device(),
        provenance=provenance,
    )  # fmt: skip
    save_means(means, out, MEANS)
    return means.compute()


def _text(options: Options) -> str:
    found = []
    for name in options.methods():
        w = options.weights(name)
        parts = [f"alpha {w.alpha:g}, beta {w.beta:g}"] if name.startswith("dkd") else [f"weight {w.kd:g}"]
        parts += [f"ND {w.nd:g}"] if name.endswith("++") else []
        found.append(f"{name}: {', '.join(parts)}, T {w.temperature:g}, warm-up {w.warmup:g} epochs")
    source = f"The settings are those of the paper for {options.preset}. " if options.preset else ""
    return source + "; ".join(found) + "."
