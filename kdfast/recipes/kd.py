"""Classic knowledge distillation (Hinton, Vinyals and Dean, 2015) of a digit classifier.

    loss = cross_entropy(s, y) + weight * T^2 KL(softmax(t / T) || softmax(s / T))

s, t: logits of student and teacher, y: labels. A teacher CNN (on augmented images), a small multilayer
perceptron alone and the same one distilled are trained on real handwritten digits, the last two from the same
starting weights on the same images in the same order. Curves are on validation images, by which the defaults
were chosen; the test images are looked at once, after training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdfast
from kdfast.recipes.common import digits, sections
from kdfast.recipes.common.classify import Distilled, Supervised, accuracy, adamw_one_cycle, predictions
from kdfast.recipes.common.data import DataUnavailable
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.report import Report
from kdfast.recipes.common.share import measure_share
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights

CLASSES = 10


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill kd`."""

    data: Literal["auto", "mnist", "sklearn"] = "auto"
    """mnist: 5,000 images of 28 x 28, downloaded once; sklearn: 1,797 of 8 x 8; auto: mnist if at hand"""

    temperature: float = 8.0
    """T, softens the logits of both"""

    weight: float = 1.0
    """of the distillation term; the labels' term has weight 1"""

    teacher_epochs: int = 12
    """passes of the teacher over the training images"""

    epochs: int = 20
    """passes of each student"""

    batch_size: int = 64
    """images a step, for each device"""

    lr: float = 0.003
    """peak learning rate of the students (AdamW, one cycle)"""

    teacher_lr: float = 0.01
    """peak learning rate of the teacher"""

    augment: bool = False
    """turn, scale and move the students' images too"""

    weight_decay: float = 0.01
    """of AdamW"""

    threads: int = 1
    """CPU threads of each process; networks this small gain little from more"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(temperature=self.temperature, weight=self.weight, batch_size=self.batch_size)
        require_positive(lr=self.lr, teacher_lr=self.teacher_lr)
        require_positive(epochs=self.epochs, teacher_epochs=self.teacher_epochs)

    def prepare(self) -> None:
        """Settle `data`: MNIST if it is cached or can be downloaded, else the digits of scikit-learn."""
        if self.data == "sklearn":
            return
        try:
            digits.fetch_mnist()
            self.data = "mnist"
        except DataUnavailable as error:
            if self.data == "mnist":
                raise
            say(f"MNIST-5k is not to be had ({error}); using scikit-learn's 8 x 8 digits")
            self.data = "sklearn"


def _block(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def teacher_network() -> nn.Sequential:
    """Six convolutions, 72,000 parameters: images [B, 1, S, S] -> logits [B, 10]."""
    return nn.Sequential(
        _block(1, 16), _block(16, 16), nn.MaxPool2d(2),
        _block(16, 32), _block(32, 32), nn.MaxPool2d(2),
        _block(32, 64), _block(64, 64), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def student_network(side: int) -> nn.Sequential:
    """One hidden layer of 100, 80,000 parameters for 28 x 28: images [B, 1, side, side] -> logits [B, 10]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 100), nn.ReLU(), nn.Linear(100, CLASSES))


def distiller(student: nn.Module, teacher: nn.Module, options: Options) -> kdfast.Distiller:
    """The student under the loss of this file's first lines."""
    kl = kdfast.Term(kdfast.nn.KLDivLoss(temperature=options.temperature), name="kl", weight=options.weight)
    return kdfast.Distiller(student, teacher, terms=[kl], task_loss=nn.CrossEntropyLoss())


def run(options: Options, out: RunFolder) -> None:
    """Train all stages, write student.safetensors (of the first seed) and report.html."""
    images = digits.load(options.data)
    train = partial(_train, options, out, images)
    scores: dict[str, list[float]] = {"teacher": [], "student": [], "distilled": []}
    first: dict[str, nn.Module] = {}  # the networks of the first seed

    def test(name: str, stage: str, network: nn.Module) -> None:
        score = out.result(f"{stage}-test", lambda: accuracy(network, images.test))
        scores[name].append(score)
        first.setdefault(name, network)
        say(f"{stage:<14} test accuracy {score:.1%}")

    def student() -> nn.Module:
        return student_network(images.side)

    def distilled() -> kdfast.Distiller:
        return distiller(student(), first["teacher"], options)

    test("teacher", "teacher", train("teacher", options.seed, teacher_network))
    for seed in options.seed_list():
        if options.baseline:
            test("student", f"student-{seed}", train(f"student-{seed}", seed, student))
        d = train(f"distilled-{seed}", seed, distilled)
        test("distilled", f"distilled-{seed}", d.export_student())
    network = f"kdfast.recipes.kd.student_network({images.side})"
    facts = {"recipe": "kd", "network": network, "data": images.source}
    save_weights(out, "student.safetensors", first["distilled"], facts)
    share = out.result("loss-share", lambda: _share(d, options, images))
    _report(options, out, images, scores, share, first)


def _train(
    options: Options, out: RunFolder, images: digits.Digits, stage: str, seed: int, network: Callable[[], Any]
) -> Any:
    """Train what `network` makes, a plain network or a Distiller, and return it."""
    first = stage == "teacher"
    optimize = adamw_one_cycle(options.teacher_lr if first else options.lr, options.weight_decay)
    augment = digits.Augment() if first or options.augment else None

    def build() -> Supervised | Distilled:
        made = network()
        if isinstance(made, kdfast.Distiller):
            return Distilled(made, CLASSES, optimize, augment=augment)
        return Supervised(made, CLASSES, optimize, augment=augment, role=sections.group(stage))

    data = EpochData(images.train, images.validation, batch_size=options.batch_size, workers=options.workers)
    epochs = options.teacher_epochs if first else options.epochs
    draws = "teacher" if first else "student"  # alone and distilled: the same weights, order and augmentation
    return train_stage(out, stage, build, data, options, epochs=epochs, seed=seed, draws=draws).network


def _share(trained: kdfast.Distiller, options: Options, images: digits.Digits) -> dict[str, Any]:
    device = options.torch_device()
    pixels, target = (tensor.to(device) for tensor in images.train[: options.batch_size])

    def plain_kl(student: Tensor, teacher: Tensor) -> Tensor:
        log_q, log_p = (F.log_softmax(logits / options.temperature, dim=-1) for logits in (student, teacher))
        return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * options.temperature**2

    return measure_share(trained.to(device).train(), (pixels,), target, {"kl": plain_kl})


def _report(
    options: Options,
    out: RunFolder,
    images: digits.Digits,
    scores: dict[str, list[float]],
    share: dict[str, Any],
    networks: dict[str, nn.Module],
) -> None:
    sizes = {name: sections.size(network, images.test[0][0][None]) for name, network in networks.items()}
    report = Report("Knowledge distillation of handwritten digits", subtitle=f"{images.source} · {out.path}")
    sections.add_scores(report, scores, "test accuracy", sizes, note=_note(images))
    sections.add_curves(report, out, "val_accuracy", "Validation accuracy", ylabel="accuracy", percent=True)
    sections.add_terms(report, out)
    sections.add_step_times(report, out)
    small_note = (
        "With ten classes a call costs more than its arithmetic; kdfast bench kl_div shows larger sizes."
    )
    sections.add_loss_share(report, share, note=small_note)
    if "student" in networks:
        _add_examples(report, images, networks)
    sections.add_settings(report, options)
    report.write(out)


def _add_examples(report: Report, images: digits.Digits, networks: dict[str, nn.Module]) -> None:
    """Test images about which the two students of the first seed disagree."""
    alone, target = predictions(networks["student"], images.test)
    distilled, _ = predictions(networks["distilled"], images.test)
    rows = torch.nonzero(alone != distilled).flatten()
    better, worse = (int((guess[rows] == target[rows]).sum()) for guess in (distilled, alone))
    pictures = [
        (f"{target[row]}: alone {alone[row]}, distilled {distilled[row]}", 1 - images.test[row][0][0])
        for row in rows[:: max(1, len(rows) // 10)][:10].tolist()
    ]
    note = (
        f"They disagree about {len(rows)} images: distilled is right on {better}, alone on {worse}. A sample."
    )
    report.images("Where the two students disagree", pictures, height=84, note=note)


def _note(images: digits.Digits) -> str:
    train, validation, test = (f"{len(part):,}" for part in (images.train, images.validation, images.test))
    return (
        f"{train} training, {validation} validation and {test} test images. The test images are looked at "
        "once, after training; nothing was chosen by them."
    )
