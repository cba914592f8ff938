"""`kdfast distill dho`: a vision-language teacher, and for every seed a student on labels alone, one with a
single head for both losses, and one with DHO's two heads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdfast.recipes.common.classify import Classifier
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_set import ImageSet, few_rows
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.share import measure_share
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.study import load_images
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.dho.batches import PairData
from kdfast.recipes.dho.heads import SingleHead
from kdfast.recipes.dho.inference import dho_predict, search_alpha_beta
from kdfast.recipes.dho.losses import UNLABELED
from kdfast.recipes.dho.options import Options
from kdfast.recipes.dho.report import write_report
from kdfast.recipes.dho.students import StudentFactory
from kdfast.recipes.dho.teacher import Teacher
from kdfast.recipes.dho.training import DualDistilled, LabelsOnly, both_logits, distiller

__all__ = ["Options", "run"]


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    study = DhoStudy(options, out)
    for seed in options.seed_list():
        study.seed(seed)
    dual = study.networks["distilled"]
    save_weights(out, "student.safetensors", dual, study.facts())
    write_report(study, study.share())


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
        self.targets = {
            part: torch.tensor([int(target) for target in _targets(getattr(self.images, part))])
            for part in ("validation", "test")
        }

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
            moves, classes = copy.deepcopy(images.augment), len(images.classes)
            if alone:
                return LabelsOnly(network(), classes, options.optimize(), augment=moves)
            return DualDistilled(network(), classes, options.optimize(), augment=moves, outputs=outputs)

        done = train_stage(
            self.out, stage, build, data, options, epochs=options.epochs, seed=seed, draws="student"
        )
        return done.network

    def _test_teacher(self, teacher: Any, seed: int) -> None:
        def compute() -> float:
            guesses = teacher.logits(self.teacher.embeddings("test")).argmax(1)
            return float((guesses.cpu() == self.targets["test"]).double().mean())

        score = self.out.result(f"teacher-{seed}-test", compute)
        self.scores["teacher"].append(score)
        self.networks.setdefault("teacher", teacher)
        say(f"{'teacher':<14} test accuracy {score:.1%}")

    def _test(self, stage: str, network: nn.Module) -> None:
        """Choose alpha and beta on validation images, then look at the test images, once."""
        name = stage.rpartition("-")[0]
        found = self.out.result(f"{stage}-test", lambda: self._look(name, network))
        self.scores[name].append(found["accuracy"])
        if name in self.findings:
            self.findings[name].append(found)
        self.networks.setdefault(name, network.cpu())
        say(f"{stage:<14} test accuracy {found['accuracy']:.1%}")

    def _look(self, name: str, network: nn.Module) -> dict[str, Any]:
        network = network.to(self.options.torch_device())
        validation, test = (self.logits(name, network, part) for part in ("validation", "test"))
        alpha, beta = self._numbers(name, *validation)
        target = self.targets["test"]

        def share(a: float, b: float) -> float:
            return float((dho_predict(*test, a, b).argmax(1) == target).double().mean())

        heads = {"supervised": share(1.0, 1.0), "distilled": share(0.0, 1.0)}
        return {"accuracy": share(alpha, beta), "alpha": alpha, "beta": beta, "heads": heads}

    def logits(self, name: str, network: nn.Module, part: str) -> tuple[Tensor, Tensor]:
        """Of both heads on the validation or test images; of a student alone its one head's, twice."""
        wrapped = _Twice(network) if name == "student" else network
        return both_logits(wrapped, getattr(self.images, part), batch_size=self.options.batch_size)[:2]

    def _numbers(self, name: str, a: Tensor, b: Tensor) -> tuple[float, float]:
        """alpha and beta: fixed by the options, or the best on the validation logits."""
        if name != "distilled":
            return 1.0, 1.0
        if self.options.alpha != -1:
            return self.options.alpha, self.options.beta
        return search_alpha_beta(a, b, self.targets["validation"])[:2]

    def facts(self) -> dict[str, object]:
        """The note in student.safetensors."""
        first = self.findings["distilled"][0]
        heads = "DualHead(align_kd=True)" if self.options.align_kd else "DualHead"
        return {
            "recipe": "dho", "backbone": self.options.student, "heads": heads,
            "alpha": first["alpha"], "beta": first["beta"], "labels": ", ".join(self.images.classes),
            "channels": self.images.channels, "size": self.images.size, "data": self.images.source,
        }  # fmt: skip

    def share(self) -> dict[str, Any]:
        """What part of a step the KL terms are; see measure_share."""
        device, count = self.options.torch_device(), min(2 * self.options.batch_size, len(self.images.train))
        pixels = torch.stack([self.images.train[row][0] for row in range(count)]).to(device)
        target = self.images.labels[:count].clone()
        target[count // 2 :] = UNLABELED
        made = self.first.to(device).train()
        before = copy.deepcopy(made.state_dict())  # the measured steps move the batch norms' statistics
        replay = None
        if self.options.replays:
            outputs = self.networks["teacher"].logits(self.teacher.embeddings("train", range(count)))
            replay = {"": outputs.to(device)}
        terms = {
            term.name: partial(plain_kl, term.loss.labeled, self.options.temperature) for term in made.terms
        }
        found = self.out.result(
            "loss-share", lambda: measure_share(made, (pixels,), target.to(device), terms, replay=replay)
        )
        made.load_state_dict(before)
        made.cpu().eval()
        return found


def plain_kl(
    half: bool | None, temperature: float, student: Tensor, teacher: Tensor, target: Tensor
) -> Tensor:
    """HalfKL in plain PyTorch."""
    if half is not None:
        rows = (target != UNLABELED) == half
        student, teacher = student[rows], teacher[rows]
    log_q, log_p = ((x / temperature).log_softmax(-1) for x in (student, teacher))
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


class _Twice(nn.Module):
    """A network's logits as if they were two heads'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)
        return logits, logits


def _targets(samples: Any):
    return (samples[row][1] for row in range(len(samples)))
