"""Detection and segmentation as Lightning modules: a network alone, or a student under a Distiller.

Logged each epoch: "loss", "terms/NAME" and "val_AP", "val_AP50" (detection) or "val_mIoU" (segmentation).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import kdfast
from kdfast.recipes.common.classify import Optimize
from kdfast.recipes.common.dense.metrics import average_precision, in_file_pixels, mean_iou
from kdfast.recipes.common.means import Means

Losses = tuple[Tensor, dict[str, Tensor]]  # the loss, its terms by name (detached)


class _Dense(LightningModule, ABC):
    """A network on its own task, or under a Distiller if `network` is one.

    Args:
        network: what is trained.
        optimize: (parameters, steps of the whole stage) -> Lightning's dict.
        role: the network's name in the step times.
        details: called after each distilled step for more 0-d tensors to log, by the names they get.
        each_epoch: called with this module at the end of each training epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        optimize: Optimize,
        *,
        role: str = "student",
        details: Callable[[], dict[str, Tensor]] | None = None,
        each_epoch: Callable[[LightningModule], None] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.role = network, role
        self._optimize, self._details, self._each_epoch = optimize, details, each_epoch
        self._means = Means()

    @property
    def student(self) -> nn.Module:
        """The network that is evaluated."""
        return self.network.student if isinstance(self.network, kdfast.Distiller) else self.network

    def timed_parts(self) -> dict[str, nn.Module]:
        if isinstance(self.network, kdfast.Distiller):
            return {"teacher": self.network.teacher, "student": self.network.student, "loss": self.network}
        return {self.role: self.network}

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        if isinstance(self.network, kdfast.Distiller):
            share = batch_index / self.trainer.num_training_batches
            self.network.set_progress(self.current_epoch + share)

    @abstractmethod
    def alone(self, inputs: Any, target: Any) -> Losses:
        """The network's own losses."""

    @abstractmethod
    def task_terms(self, output: Any, target: Any) -> dict[str, Tensor]:
        """The task's terms in what the student returned, for the log."""

    def call(self, inputs: Any, target: Any) -> tuple:
        """The positional arguments of a Distiller's forward."""
        return (inputs,)

    def training_step(self, batch: Any, _: int) -> Tensor:
        inputs, target = batch
        if isinstance(self.network, kdfast.Distiller):
            out = self.network(*self.call(inputs, target), target=target)
            terms = self.task_terms(out.output, target) | out.terms
            loss = out.loss
        else:
            loss, terms = self.alone(inputs, target)
        logged = {"loss": loss.detach()} | {f"terms/{k}": v.detach() for k, v in terms.items()}
        if self._details is not None:
            logged |= self._details()
        self._means.add(logged, len(inputs))
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.is_last_batch:
            self.log_dict(self._means.take(), on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    def on_train_epoch_end(self) -> None:
        if self._each_epoch is not None:
            self._each_epoch(self)

    def configure_optimizers(self) -> dict[str, Any]:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return self._optimize(parameters, int(self.trainer.estimated_stepping_batches))


class Detection(_Dense):
    """A torchvision detector; batches are lists of images and of targets (see DetectionSet)."""

    def __init__(self, network: nn.Module, optimize: Optimize, **options: Any) -> None:
        super().__init__(network, optimize, **options)
        self.precision = average_precision(shared=True)

    def alone(self, inputs: list[Tensor], target: list[dict[str, Tensor]]) -> Losses:
        losses = self.network(inputs, target)
        return sum_of(losses), losses

    def call(self, inputs: list[Tensor], target: list[dict[str, Tensor]]) -> tuple:
        return inputs, target

    def task_terms(self, output: dict[str, Tensor], target: Any) -> dict[str, Tensor]:
        return output

    def validation_step(self, batch: Any, _: int) -> None:
        images, targets = batch
        self.precision.update(*in_file_pixels(self.student(images), targets))

    def on_validation_epoch_end(self) -> None:
        result = self.precision.compute()
        found = {"val_AP": result["map"].clamp(min=0), "val_AP50": result["map_50"].clamp(min=0)}
        self.log_dict(found, sync_dist=True)  # every process has computed the same
        self.precision.reset()


def sum_of(losses: dict[str, Tensor], _: Any = None) -> Tensor:
    """The sum of a detector's losses; a Distiller's task_loss."""
    return torch.stack(list(losses.values())).sum()


class Segmentation(_Dense):
    """A segmenter; batches are images [B, 3, H, W] and labels [B, H, W] int64, 255 for no label.

    Args:
        classes: number of classes.
        auxiliary: weight of the auxiliary head's cross-entropy, for networks that have one.
    """

    def __init__(
        self, network: nn.Module, optimize: Optimize, *, classes: int, auxiliary: float = 0.4, **options: Any
    ) -> None:
        super().__init__(network, optimize, **options)
        self._auxiliary = auxiliary
        self.iou = mean_iou(classes, shared=True)

    def alone(self, inputs: Tensor, target: Tensor) -> Losses:
        output = self.network(inputs)
        return pixel_loss(output, target, self._auxiliary), self.task_terms(output, target)

    def task_terms(self, output: dict[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        return {"task": pixel_loss({"out": output["out"].detach()}, target)}

    def validation_step(self, batch: Any, _: int) -> None:
        images, labels = batch
        self.iou.update(self.student(images)["out"].argmax(1), labels)
        self.log("val_mIoU", self.iou, on_step=False, on_epoch=True, batch_size=len(labels))


def pixel_loss(output: dict[str, Tensor], target: Tensor, auxiliary: float = 0.4) -> Tensor:
    """Cross-entropy of "out", and of "aux" with weight `auxiliary`, over labelled pixels; 0 without any."""
    counted = (target != 255).sum().clamp(min=1)
    value = output["out"].new_zeros((), dtype=torch.float32)
    for name, weight in (("out", 1.0), ("aux", auxiliary)):
        if name in output:
            total = F.cross_entropy(output[name].float(), target, ignore_index=255, reduction="sum")
            value = value + weight * total / counted
    return value
