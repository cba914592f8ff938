"""Image classification as Lightning modules: a network on labels alone, a student under a Distiller."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassAccuracy

import kdfast
from kdfast.distill.distiller import DistillerOutput
from kdfast.recipes.common.average import MovingAverage
from kdfast.recipes.common.means import Means

Batch = tuple[Tensor, Tensor]  # images [B, C, H, W], class numbers [B]
Optimize = Callable[[list[nn.Parameter], int], dict[str, Any]]  # parameters, steps -> what Lightning expects


class Classifier(LightningModule, ABC):
    """Training and validation steps over `losses` and `predict`, which subclasses define.

    Logs "loss", "terms/NAME", "train_accuracy" (on the augmented images) and "val_accuracy".

    Args:
        network: what is trained; images [B, C, H, W] -> logits [B, classes], or a Distiller.
        classes: number of classes.
        optimize: (parameters, steps of the whole stage) -> Lightning's dict of "optimizer" and
            "lr_scheduler".
        augment: batch of images -> batch of images, in training only.
        average: momentum of a moving average of the weights (see MovingAverage), with which the network is
            validated and, in the end, kept; 0 for none.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        optimize: Optimize,
        *,
        augment: nn.Module | None = None,
        average: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.augment = network, augment
        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.average = MovingAverage(learning, average) if average else None
        self._optimize = optimize
        self._means = Means()
        self.train_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.val_accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)

    @abstractmethod
    def losses(self, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """-> loss, its terms by name (detached), logits [B, classes]."""

    @abstractmethod
    def predict(self, images: Tensor) -> Tensor:
        """-> logits [B, classes]."""

    def timed_parts(self) -> dict[str, nn.Module]:
        """What the step clock times within the forward pass; subclasses add their networks and losses."""
        return {} if self.augment is None else {"augment": self.augment}

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images, target = batch[:2]
        if self.augment is not None:
            images = self.augment(images)
        loss, terms, logits = self.losses(images, target)
        self.train_accuracy.update(logits.detach(), target)
        self._means.add({"loss": loss.detach()} | {f"terms/{k}": v for k, v in terms.items()}, len(target))
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average is not None:
            self.average.update()

    def on_validation_epoch_start(self) -> None:
        if self.average is not None:
            self.average.swap()

    def on_validation_end(self) -> None:
        if self.average is not None:
            self.average.swap()

    def finished(self) -> None:
        """When training is over, or its result has been read back; see train_stage."""
        if self.average is not None:
            self.average.keep()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_last_batch:  # logging costs milliseconds a call: once an epoch is enough
            self.log_dict(self._means.take(), on_step=False, on_epoch=True, sync_dist=True)
            self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True)

    def validation_step(self, batch: Batch, _: int) -> None:
        images, target = batch
        self.val_accuracy.update(self.predict(images), target)
        self.log("val_accuracy", self.val_accuracy, on_step=False, on_epoch=True, batch_size=len(target))

    def configure_optimizers(self) -> dict[str, Any]:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self._optimize(parameters, int(self.trainer.estimated_stepping_batches))


class Supervised(Classifier):
    """One network on labels alone, by cross-entropy or another `task_loss(logits, target)`."""

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        optimize: Optimize,
        *,
        role: str = "student",
        task_loss: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, classes, optimize, **options)
        self.role = role  # its name in the step times
        self.task_loss = nn.CrossEntropyLoss() if task_loss is None else task_loss

    def timed_parts(self) -> dict[str, nn.Module]:
        return super().timed_parts() | {self.role: self.network, "loss": self.task_loss}

    def losses(self, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        logits = self.network(images)
        loss = self.task_loss(logits, target)
        return loss, {"task": loss.detach()}, logits

    def predict(self, images: Tensor) -> Tensor:
        return self.network(images)


class Distilled(Classifier):
    """A student under a Distiller whose `warmup` counts in epochs.

    whole_epochs: the warm-up rises from epoch to epoch, as in published code, and not from step to step.
    """

    def __init__(
        self,
        distiller: kdfast.Distiller,
        classes: int,
        optimize: Optimize,
        *,
        whole_epochs: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(distiller, classes, optimize, **options)
        self._whole_epochs = whole_epochs

    def timed_parts(self) -> dict[str, nn.Module]:
        distiller = self.network
        return super().timed_parts() | {
            "teacher": distiller.teacher,
            "student": distiller.student,
            **getattr(distiller.student, "timed_parts", dict)(),
            "loss": distiller,
        }

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        part = 0.0 if self._whole_epochs else batch_index / self.trainer.num_training_batches
        self.network.set_progress(self.current_epoch + part)

    def losses(self, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        out = self.forward_distiller(images, target)
        terms = dict(out.terms)
        if self.network.task_loss is not None:  # the Distiller reports its terms only
            terms["task"] = self.network.task_loss(out.output.detach(), target)
        return out.loss, terms, out.output

    def forward_distiller(self, images: Tensor, target: Tensor) -> DistillerOutput:
        """What the Distiller makes of a batch; see also `replay`."""
        return self.network(images, target=target)

    def predict(self, images: Tensor) -> Tensor:
        return self.network.student(images)


@torch.no_grad()
def predictions(network: nn.Module, samples: Dataset, *, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """-> what `network` takes the samples for [N] and their labels [N], on the CPU; it runs where it is."""
    network.eval()
    device = next(network.parameters()).device
    parts = [
        (network(images.to(device)).argmax(1).cpu(), target)
        for images, target in DataLoader(samples, batch_size=batch_size)
    ]
    guesses, targets = zip(*parts, strict=True)
    return torch.cat(guesses), torch.cat(targets)


def accuracy(network: nn.Module, samples: Dataset, *, batch_size: int = 500) -> float:
    """Share of the samples that `network` classifies as labelled."""
    guesses, targets = predictions(network, samples, batch_size=batch_size)
    return float((guesses == targets).double().mean())


def adamw_one_cycle(lr: float, weight_decay: float) -> Optimize:
    """AdamW whose rate rises to `lr` over the first 30 % of the steps, then falls to nothing (OneCycleLR)."""

    def optimize(parameters: list[nn.Parameter], steps: int) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return optimize
