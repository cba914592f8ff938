"""Classic knowledge distillation (Hinton, Vinyals and Dean, 2015) of a digit classifier.

    loss = cross_entropy(s, y) + weight * T^2 KL(softmax(t / T) || softmax(s / T))

s, t: logits of student and teacher, y: labels. A teacher CNN, the student alone and the distilled student
are trained on real handwritten digits, the last two from the same starting weights on the same images in the
same order. Curves are on validation images; the test images are looked at once, after training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

import kdfast
from kdfast.recipes.common import digits, sections
from kdfast.recipes.common.classify import Distilled, Supervised, accuracy, adamw_one_cycle
from kdfast.recipes.common.clock import loss_share
from kdfast.recipes.common.data import DataUnavailable
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights

CLASSES = 10


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill kd`."""

    data: Literal["auto", "mnist", "sklearn"] = "auto"
    """mnist: 5,000 images of 28 x 28, downloaded once; sklearn: 1,797 of 8 x 8; auto: mnist if at hand"""

    temperature: float = 4.0
    """T, softens the logits of both"""

    weight: float = 1.0
    """of the distillation term; the labels' term has weight 1"""

    teacher_epochs: int = 12
    """passes of the teacher over the training images"""

    epochs: int = 20
    """passes of each student"""

    batch_size: int = 64
    """images a step, for each device"""

    lr: float = 0.01
    """peak learning rate of AdamW under a one-cycle schedule"""

    weight_decay: float = 0.01
    """of AdamW"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            temperature=self.temperature, weight=self.weight, lr=self.lr, batch_size=self.batch_size
        )
        require_positive(epochs=self.epochs, teacher_epochs=self.teacher_epochs)

    def prepare(self) -> None:
        """Settle `data`: MNIST if it is cached or can be downloaded, else the digits of scikit-learn."""
        if self.data == "sklearn":
            return
        try:
            digits.load("mnist")
            self.data = "mnist"
        except DataUnavailable as error:
            if self.data == "mnist":
                raise
            say(f"MNIST-5k is not to be had ({error}); using scikit-learn's 8 x 8 digits")
            self.data = "sklearn"


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def teacher_network() -> nn.Sequential:
    """Six convolutions, 72,000 parameters: images [B, 1, S, S] -> logits [B, 10]."""
    return nn.Sequential(
        _block(1, 16), _block(16, 16), nn.MaxPool2d(2),
        _block(16, 32), _block(32, 32), nn.MaxPool2d(2),
        _block(32, 64), _block(64, 64), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def student_network() -> nn.Sequential:
    """Three strided convolutions, 1,700 parameters: images [B, 1, S, S] -> logits [B, 10]."""
    return nn.Sequential(
        _block(1, 4, stride=2), _block(4, 8, stride=2), _block(8, 16, stride=2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES),
    )  # fmt: skip


def distiller(teacher: nn.Module, options: Options) -> kdfast.Distiller:
    """A fresh student under the loss of this file's first lines."""
    kl = kdfast.Term(kdfast.nn.KLDivLoss(temperature=options.temperature), name="kl", weight=options.weight)
    return kdfast.Distiller(student_network(), teacher, terms=[kl], task_loss=nn.CrossEntropyLoss())


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    images = digits.load(options.data)
    scores: dict[str, list[float]] = {"teacher": [], "student": [], "distilled": []}

    def test(stage: str, network: nn.Module) -> None:
        score = out.result(f"{stage}-test", lambda: accuracy(network, images.test))
        scores[sections.group(stage)].append(score)
        say(f"{stage:<14} test accuracy {score:.1%}")

    teacher = _train(options, out, images, "teacher", options.seed, teacher_network)
    test("teacher", teacher)
    first = None
    for seed in options.seed_list():
        if options.baseline:
            test(f"student-{seed}", _train(options, out, images, f"student-{seed}", seed, student_network))
        distilled = _train(
            options, out, images, f"distilled-{seed}", seed, partial(distiller, teacher, options)
        )
        test(f"distilled-{seed}", distilled.export_student())
        first = first or distilled
    facts = {"recipe": "kd", "network": "kdfast.recipes.kd.student_network", "data": images.source}
    save_weights(out, "student.safetensors", first.export_student(), facts)
    share = out.result("loss-share", lambda: measure(first, options, images))
    _report(options, out, images, scores, share)


def _train(
    options: Options, out: RunFolder, images: digits.Digits, stage: str, seed: int, network: Callable[[], Any]
) -> Any:
    """Train what `network` makes, a plain network or a Distiller, and return it."""

    def build() -> Supervised | Distilled:
        made = network()
        kind = Distilled if isinstance(made, kdfast.Distiller) else Supervised
        optimize = adamw_one_cycle(options.lr, options.weight_decay)
        return kind(made, CLASSES, optimize, augment=digits.Augment())

    data = EpochData(images.train, images.validation, batch_size=options.batch_size, workers=options.workers)
    epochs = options.teacher_epochs if stage == "teacher" else options.epochs
    return train_stage(out, stage, build, data, options, epochs=epochs, seed=seed, draws="student").network


def measure(trained: kdfast.Distiller, options: Options, images: digits.Digits) -> dict[str, Any]:
    """The loss's share of a step with kdfast and with plain PyTorch, on the logits of one real batch."""
    pixels, target = images.train[: options.batch_size]
    trained.train()
    out = trained(pixels, target=target)
    student, teacher = out.output.detach().requires_grad_(), out.teacher
    losses = {
        "kdfast": kdfast.nn.KLDivLoss(temperature=options.temperature),
        "plain PyTorch": partial(_plain_kl, options),
    }
    both = {
        name: lambda kl=kl: F.cross_entropy(student, target) + options.weight * kl(student, teacher)
        for name, kl in losses.items()
    }
    return loss_share(both, lambda: trained(pixels, target=target).loss.backward())


def _plain_kl(options: Options, student: Tensor, teacher: Tensor) -> Tensor:
    log_q, log_p = (F.log_softmax(logits / options.temperature, dim=-1) for logits in (student, teacher))
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * options.temperature**2


def _report(
    options: Options,
    out: RunFolder,
    images: digits.Digits,
    scores: dict[str, list[float]],
    share: dict[str, Any],
) -> None:
    small = sections.parameters(student_network())
    sizes = {"teacher": sections.parameters(teacher_network()), "student": small, "distilled": small}
    report = Report("Knowledge distillation of handwritten digits", subtitle=f"{images.source} · {out.path}")
    sections.add_scores(report, scores, "test accuracy", sizes, note=_note(images))
    sections.add_curves(report, out, "val_accuracy", "Validation accuracy", ylabel="accuracy")
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    sections.add_loss_share(report, share)
    sections.add_settings(report, options)
    report.write(out)


def _note(images: digits.Digits) -> str:
    train, validation, test = (f"{len(part):,}" for part in (images.train, images.validation, images.test))
    return (
        f"{train} training, {validation} validation and {test} test images. The test images are looked at "
        "once, after training; nothing was chosen by them."
    )
