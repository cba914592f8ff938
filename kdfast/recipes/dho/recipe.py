"""`kdfast distill dho`: a vision-language teacher, and for every seed a student on labels alone, one with a
single head for both losses, and one with DHO's two heads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdfast.recipes.common.classify import Classifier
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_set import ImageSet, few_rows
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.study import load_images
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.dho.batches import PairData
from kdfast.recipes.dho.heads import SingleHead
from kdfast.recipes.dho.options import Options
from kdfast.recipes.dho.report import write_report
from kdfast.recipes.dho.scoring import Scoring
from kdfast.recipes.dho.share import loss_share
from kdfast.recipes.dho.students import StudentFactory
from kdfast.recipes.dho.teacher import Teacher
from kdfast.recipes.dho.training import DualDistilled, LabelsOnly, distiller

__all__ = ["Options", "run"]


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    study = DhoStudy(options, out)
    for seed in options.seed_list():
        study.seed(seed)
    dual = study.networks["distilled"]
    save_weights(out, "student.safetensors", dual, study.facts())
    write_report(study, loss_share(study))


class DhoStudy:
    """One run: `scores` and `findings` by network, `networks` and the Distiller of the first seed."""

    def __init__(self, options: Options, out: RunFolder) -> None:
        self.options, self.out = options, out
        self.images: ImageSet = load_images(options)
        if self.images.bad:
            names = ", ".join(self.images.bad[:3])
            say(f"left out {len(self.images.bad)} images that cannot be read: {names}")
        self.student = StudentFactory(options, self.images)
        self.teacher = Teacher(options, self.images, out)
        self.scores: dict[str, list[float]] = {"teacher": [], "student": [], "single": [], "distilled": []}
        self.findings: dict[str, list[dict[str, Any]]] = {"single": [], "distilled": []}
        self.networks: dict[str, nn.Module] = {}
        self.first: Any = None  # the first seed's Distiller
        self.scoring = Scoring(options, self.images)

    def labeled(self, seed: int) -> list[int]:
        """The training rows whose labels are known."""
        if not self.options.shots:
            return self.images.few(self.options.label_share, seed)
        shares = self.options.shots / self.images.labels.bincount(minlength=len(self.images.classes)).clamp(
            min=1
        )
        if (shares > 1).any():
            name = self.images.classes[int(shares.argmax())]
            raise UserError(f"--shots {self.options.shots}: {name} has fewer training images")
        chosen = []
        for number in range(len(self.images.classes)):
            rows = torch.nonzero(self.images.labels == number).flatten()
            picked = few_rows(torch.zeros(len(rows), dtype=torch.int64), float(shares[number]), seed + number)
            chosen += rows[picked].tolist()
        return sorted(chosen)

    def seed(self, seed: int) -> None:
        """All students of one seed: the same labelled rows, starting weights and batches."""
        rows = self.labeled(seed)
        teacher = self.teacher.for_labels(rows, seed)
        self._test_teacher(teacher, seed)
        if self.options.baseline:
            alone = self._train(f"student-{seed}", seed, rows, lambda: self.student.make(None), None)
            self._test(f"student-{seed}", alone)
        outputs = None
        if self.options.replays:
            outputs = teacher.logits(self.teacher.embeddings("train")).cpu()
        heads = {"single": SingleHead} if self.options.single_head else {}
        for name, head in (heads | {"distilled": None}).items():
            build = partial(self._distiller, head, teacher, len(rows))
            made = self._train(f"{name}-{seed}", seed, rows, build, outputs)
            self._test(f"{name}-{seed}", made.export_student())
            if name == "distilled" and self.first is None:
                made.attach()
                self.first = made

    def _distiller(self, head: Callable[..., nn.Module] | None, teacher: nn.Module, known: int) -> Any:
        options = self.options
        labeled = min(options.batch_size, known)
        return distiller(
            self.student.make(head or self.student.dual, labeled), teacher,
            temperature=options.temperature, weights=options.weights, reduction=options.reduction,
        )  # fmt: skip

    def _train(
        self, stage: str, seed: int, rows: list[int], network: Callable[[], Any], outputs: Tensor | None
    ) -> Any:
        options, images = self.options, self.images
        known = set(rows)
        alone = stage.startswith("student")
        data = PairData(
            images.train, images.validation, labeled=rows,
            unlabeled=[row for row in range(len(images.labels)) if row not in known],
            batch_size=options.batch_size, pass_over=options.pass_over, labels_only=alone,
            workers=options.workers,
        )  # fmt: skip

        def build() -> Classifier:
            more = {"augment": copy.deepcopy(images.augment), "average": options.ema}
            classes = len(images.classes)
            if alone:
                return LabelsOnly(network(), classes, options.optimize(), **more)
            return DualDistilled(network(), classes, options.optimize(), outputs=outputs, **more)

        done = train_stage(
            self.out, stage, build, data, options, epochs=options.epochs, seed=seed, draws="student",
            trainer_options=options.trainer_options(),
        )  # fmt: skip
        return done.network

    def _test_teacher(self, teacher: Any, seed: int) -> None:
        def compute() -> float:
            guesses = teacher.logits(self.teacher.embeddings("test")).argmax(1)
            return float((guesses.cpu() == self.scoring.targets["test"]).double().mean())

        score = self.out.result(f"teacher-{seed}-test", compute)
        self.scores["teacher"].append(score)
        self.networks.setdefault("teacher", teacher)
        say(f"{'teacher':<14} test accuracy {score:.1%}")

    def _test(self, stage: str, network: nn.Module) -> None:
        """Choose alpha and beta on validation images, then look at the test images, once."""
        name = stage.rpartition("-")[0]
        found = self.out.result(f"{stage}-test", lambda: self.scoring.look(name, network))
        self.scores[name].append(found["accuracy"])
        if name in self.findings:
            self.findings[name].append(found)
        self.networks.setdefault(name, network.cpu())
        say(f"{stage:<14} test accuracy {found['accuracy']:.1%}")

    def facts(self) -> dict[str, object]:
        """The note in student.safetensors."""
        first = self.findings["distilled"][0]
        heads = "DualHead(align_kd=True)" if self.options.align_kd else "DualHead"
        return {
            "recipe": "dho", "backbone": self.options.student, "heads": heads,
            "alpha": first["alpha"], "beta": first["beta"], "labels": ", ".join(self.images.classes),
            "channels": self.images.channels, "size": self.images.size, "data": self.images.source,
        }  # fmt: skip
