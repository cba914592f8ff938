"""Teacher, student alone and distilled students over seeds, tested and reported: what the recipes for image
classifiers share.

    study = Study("nd", options, out)
    teacher = study.teacher()
    study.compare({"kd": build})     # build(student, teacher, rows) -> kdfast.Distiller
    report = study.report("Title", plain={"kl": ...})
    report.write(out)

Students of one seed begin with the same weights and see the same images in the same order, alone or
distilled. Test images are looked at once, by finished networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.data import Dataset, Subset

import kdfast
from kdfast.recipes.common import image_set, models, sections
from kdfast.recipes.common.classify import Classifier, Distilled, Supervised, accuracy
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_options import ImageOptions
from kdfast.recipes.common.image_set import ImageSet
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.replay import Replayed, WithRows, teacher_outputs
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.study_report import report_of
from kdfast.recipes.common.weights import save_weights

Build = Callable[[nn.Module, nn.Module, list[int]], kdfast.Distiller]  # student, teacher, the seed's rows


class Study:
    """One run. Scores and first networks by name: "teacher", "student" (alone), and the methods.

    Args:
        recipe: its name, for the note in student.safetensors.
        images: the data; what `options.data` names if not given.
    """

    def __init__(
        self, recipe: str, options: ImageOptions, out: RunFolder, images: ImageSet | None = None
    ) -> None:
        self.recipe, self.options, self.out = recipe, options, out
        self.specs = {
            role: models.parse(f"--{role}", getattr(options, role)) for role in ("teacher", "student")
        }
        self.images = load_images(options) if images is None else images
        if self.images.bad:
            names = ", ".join(self.images.bad[:3])
            say(f"left out {len(self.images.bad)} images that cannot be read: {names}")
        self.scores: dict[str, list[float]] = {"teacher": [], "student": []}
        self.networks: dict[str, nn.Module] = {}
        self.distillers: dict[str, kdfast.Distiller] = {}  # of the first seed
        self.task_loss: nn.Module | None = None  # of students alone; cross-entropy if None
        self.module: Callable[..., Distilled] = Distilled  # the Lightning module around a Distiller

    def make(self, role: str, **more: float) -> nn.Module:
        """A fresh network for the teacher or the student."""
        fixed = role == "teacher" and self.options.teacher_epochs == 0
        options = self.options
        pretrained = options.pretrained if role == "teacher" else options.student_pretrained
        return models.create(
            self.specs[role], classes=len(self.images.classes), channels=self.images.channels,
            size=self.images.size, pretrained=pretrained, new_head=not fixed,
            option=f"--{role}", **more,
        )  # fmt: skip

    def teacher(self) -> nn.Module:
        """The teacher, trained on all training images (or read from its file) and tested."""
        options = self.options
        if options.teacher_epochs:
            network = self.train(
                "teacher", options.seed, lambda: self.make("teacher"), draws="teacher",
                epochs=options.teacher_epochs, optimize=options.optimize(teacher=True),
            )  # fmt: skip
        elif self.specs["teacher"].weights or options.pretrained:
            network = self.make("teacher")
        else:
            raise UserError(
                f"--teacher {options.teacher} has fresh weights: --teacher-epochs above 0, or "
                "NAME@WEIGHTS, is needed"
            )
        self.test("teacher", "teacher", network)
        return network.requires_grad_(False)

    def compare(self, methods: Mapping[str, Build]) -> None:
        """For every seed the student alone (if --baseline) and one student of each method, tested."""
        teacher = self.networks["teacher"]
        for seed in self.options.seed_list():
            rows = self.images.few(self.options.label_share, seed)
            if self.options.baseline:
                network = self.train(
                    f"student-{seed}", seed, lambda: self.make("student"), rows=rows, task_loss=self.task_loss
                )
                self.test("student", f"student-{seed}", network)
            for name, build in methods.items():
                self.distil(name, seed, build, teacher, rows)
        self._save(next(iter(methods)))

    def distil(
        self, name: str, seed: int, build: Build, teacher: nn.Module, rows: list[int]
    ) -> kdfast.Distiller:
        """One distilled student of the method `name`, tested."""
        distiller = self.train(
            f"{name}-{seed}", seed, lambda: build(self.make("student"), teacher, rows), rows=rows
        )
        self.distillers.setdefault(name, distiller)
        self.test(name, f"{name}-{seed}", distiller.export_student())
        distiller.attach()
        return distiller

    def train(
        self,
        stage: str,
        seed: int,
        network: Callable[[], Any],
        *,
        rows: list[int] | None = None,
        epochs: int | None = None,
        draws: str = "student",
        optimize: Any = None,
        dataset: Dataset | None = None,
        task_loss: nn.Module | None = None,
    ) -> Any:
        """Train what `network` makes, a plain network or a Distiller, on `rows` of the training images."""
        options, images = self.options, self.images
        chosen = images.train if dataset is None else dataset
        chosen = chosen if rows is None else Subset(chosen, rows)
        optimize = optimize or options.optimize(epochs=epochs)
        classes = len(images.classes)

        def build() -> Classifier:
            made, moves = network(), copy.deepcopy(images.augment)
            average = 0.0 if stage == "teacher" else options.ema
            if not isinstance(made, kdfast.Distiller):
                more = {"role": sections.group(stage), "task_loss": task_loss}
                return Supervised(made, classes, optimize, augment=moves, average=average, **more)
            if options.teacher_cache:
                outputs = teacher_outputs(
                    made, chosen, options.teacher_cache, batch_size=options.batch_size,
                    workers=options.workers, device=options.torch_device(), view=self.view(),
                )  # fmt: skip
                return Replayed(made, classes, optimize, outputs=outputs, average=average)
            return self.module(made, classes, optimize, augment=moves, average=average)

        data = EpochData(
            WithRows(chosen) if options.teacher_cache else chosen, images.validation,
            batch_size=options.batch_size, workers=options.workers,
            drop_last=len(chosen) % options.batch_size == 1,  # batch norm needs two
        )  # fmt: skip
        epochs = epochs or options.epochs
        return train_stage(
            self.out, stage, build, data, options, epochs=epochs, seed=seed, draws=draws,
            trainer_options=options.trainer_options(),
        ).network  # fmt: skip

    def view(self) -> str:
        """What the rows of the training images and their pixels depend on, for the teacher's cache."""
        options = self.options
        return f"{self.images.source}; {options.image_size}; {options.validation_share}; {self.images.bad}"

    def test(self, name: str, stage: str, network: nn.Module, samples: Dataset | None = None) -> float:
        """Test accuracy of a finished network; kept under `name`."""
        device = self.options.torch_device()

        def compute() -> float:
            batch = max(1, self.options.batch_size)
            return accuracy(network.to(device), samples or self.images.test, batch_size=batch)

        score = self.out.result(f"{stage}-test", compute)
        self.scores.setdefault(name, []).append(score)
        self.networks.setdefault(name, network.cpu())
        say(f"{stage:<14} test accuracy {score:.1%}")
        return score

    def facts(self) -> dict[str, object]:
        """The note in student.safetensors, from which `--teacher FILE` makes the network again."""
        images = self.images
        return {
            "recipe": self.recipe,
            "network": self.specs["student"].name,
            "classes": len(images.classes),
            "channels": images.channels,
            "size": images.size,
            "data": images.source,
            "labels": ", ".join(images.classes),
        }

    def _save(self, name: str) -> None:
        save_weights(self.out, "student.safetensors", self.networks[name], self.facts())

    def report(self, title: str, **given: Any) -> Report:
        """Scores, curves, terms, step times, the loss's share, settings; see study_report.report_of."""
        return report_of(self, title, **given)


def load_images(options: ImageOptions) -> ImageSet:
    """What `--data` and its companions name."""
    return image_set.load(
        options.data, size=options.image_size, channels=options.channels, kind=options.augment,
        validation=options.validation_share, skip_bad=options.skip_bad,
    )  # fmt: skip
