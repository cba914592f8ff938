"""DHO's students as Lightning modules, with the cosine between the two losses' gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

import kdfast
from kdfast.distill.distiller import DistillerOutput
from kdfast.recipes.common.classify import Distilled, Supervised
from kdfast.recipes.dho.heads import HeadedStudent
from kdfast.recipes.dho.inference import dho_predict
from kdfast.recipes.dho.losses import UNLABELED, HalfKL, SupervisedLoss


def distiller(
    student: HeadedStudent,
    teacher: nn.Module | None,
    *,
    temperature: float = 2.0,
    weights: tuple[float, float] = (0.5, 0.5),
    reduction: str = "code",
    teacher_dtype: torch.dtype | None = None,
) -> kdfast.Distiller:
    """The student under DHO's loss, `d(images, target=y)`; rows whose target is UNLABELED have no label.

    weights: of the cross-entropy and of the KL terms. Others as in losses.dho_loss.
    """
    halves = {"kd_labeled": True, "kd_unlabeled": False} if reduction == "code" else {"kd": None}
    terms = [
        kdfast.Term(HalfKL(half, temperature), "[1]", name=name, weight=weights[1], target=True)
        for name, half in halves.items()
    ]
    return kdfast.Distiller(student, teacher, terms, SupervisedLoss(weights[0]), teacher_dtype)


def gradient_cosine(parameters: Sequence[nn.Parameter], first: Tensor, second: Tensor) -> Tensor:
    """Cosine between the gradients of two losses with respect to shared parameters; both graphs are kept."""
    pairs = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for loss in (first, second)
    ]
    both = [
        (a.flatten(), b.flatten()) for a, b in zip(*pairs, strict=True) if a is not None and b is not None
    ]
    a, b = (torch.cat(side).float() for side in zip(*both, strict=True))
    return torch.nn.functional.cosine_similarity(a, b, dim=0)


class DualDistilled(Distilled):
    """A student with two heads under `distiller`. Batches are (images, labels or UNLABELED, rows).

    Also logs "gradient_cosine" of the backbone's two gradients, on the first batch of each epoch.

    outputs: the teacher's logits of every training row [N, C]; None runs it on the student's images.
    """

    def __init__(
        self,
        made: kdfast.Distiller,
        classes: int,
        optimize: Any,
        *,
        outputs: Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__(made, classes, optimize, **options)
        self._outputs = outputs
        self._cosine: Tensor | None = None
        self.train_accuracy = MulticlassAccuracy(
            classes, average="micro", ignore_index=UNLABELED, validate_args=False
        )

    def timed_parts(self) -> dict[str, nn.Module]:
        parts = super().timed_parts()
        return {name: part for name, part in parts.items() if part is not None}

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        self._rows, self._first = batch[2], index == 0
        return super().training_step(batch, index)

    def losses(self, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        out = self.forward_distiller(images, target)
        task = self.network.task_loss(out.output, target)
        if self._first:
            shared = [p for p in self.network.student.backbone.parameters() if p.requires_grad]
            self._cosine = gradient_cosine(shared, task, out.loss - task).detach()
        terms = {"ce": task.detach() / self.network.task_loss.weight} | out.terms
        return out.loss, terms, dho_predict(*out.output)

    def forward_distiller(self, images: Tensor, target: Tensor) -> DistillerOutput:
        if self._outputs is None:
            return self.network(images, target=target)
        logits = self._outputs[self._rows.to(self._outputs.device)].to(images.device)
        return self.network(images, target=target, replay={"": logits})

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        if self.trainer.is_last_batch and self._cosine is not None:
            self.log("gradient_cosine", self._cosine, on_step=False, on_epoch=True, sync_dist=True)

    def predict(self, images: Tensor) -> Tensor:
        return dho_predict(*self.network.student(images))


class LabelsOnly(Supervised):
    """The student alone: a backbone and a linear classifier, on the labelled rows of batches with rows."""

    def training_step(self, batch: tuple[Tensor, ...], index: int) -> Tensor:
        return super().training_step(batch[:2], index)


@torch.no_grad()
def both_logits(student: nn.Module, samples: Any, *, batch_size: int = 500) -> tuple[Tensor, Tensor, Tensor]:
    """-> logits of the two heads [N, C] each and labels [N], on the CPU."""
    from torch.utils.data import DataLoader

    student.eval()
    device = next(student.parameters()).device
    parts = [
        (*(logits.float().cpu() for logits in student(images.to(device))), target)
        for images, target in DataLoader(samples, batch_size=batch_size)
    ]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))
