"""A transformers DETR among the recipes' detectors: `DetrDetector`, and its Lightning module.

training    (images, labels, queries) -> DetrOutput, its loss with it
evaluation  images -> list of dicts of boxes [n, 4], labels [n] from 1, scores [n], as torchvision's;
            with queries a DetrOutput, as a teacher gives it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

import kdfast
from kdfast.recipes.clock_distill.inject import DetrOutput, DetrWithQueries
from kdfast.recipes.clock_distill.queries import ExternalQueries, TargetQueries
from kdfast.recipes.common.dense.lightning import Detection, Losses

Labels = list[dict[str, Tensor]]  # of an image: boxes [n, 4] cxcywh of the image, class_labels [n] from 0
MULTIPLE = 32  # height and width of a batch
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DetrDetector(nn.Module):
    """Args:
    detr: of transformers; RT-DETR has no padding mask, so images of different sizes are stretched to one for
        it, and padded for the others.
    most: detections an image.
    """

    def __init__(self, detr: nn.Module, *, most: int = 100) -> None:
        super().__init__()
        self.model, self.most = DetrWithQueries(detr), most
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(
        self, images: list[Tensor], labels: Labels | None = None, queries: ExternalQueries | None = None
    ) -> DetrOutput | list[dict[str, Tensor]]:
        if self.training and labels is None:
            raise ValueError("training needs labels, got None")
        pixels, mask = self.batch(images)
        out = self.model(pixels, mask, queries, labels)
        if self.training or queries is not None:
            return out
        return [self._detections(*each) for each in zip(out.logits, out.boxes, images, strict=True)]

    def batch(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Images [3, h, w] in [0, 1] -> [B, 3, H, W] normalised, and the pixel mask [B, H, W]."""
        height, width = (-(-max(i.shape[k] for i in images) // MULTIPLE) * MULTIPLE for k in (1, 2))
        pixels = images[0].new_zeros(len(images), 3, height, width)
        mask = pixels.new_zeros(len(images), height, width)
        for row, image in enumerate(images):
            image = (image - self.mean) / self.std
            if self.model.stretches:
                image = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False)[0]
            h, w = image.shape[1:]
            pixels[row, :, :h, :w], mask[row, :h, :w] = image, 1
        return pixels, mask

    def _detections(self, logits: Tensor, boxes: Tensor, image: Tensor) -> dict[str, Tensor]:
        """The best pairs of query and class; boxes in pixels of the image."""
        scores = logits.float().sigmoid()
        best, which = scores.flatten().topk(min(self.most, scores.numel()))
        h, w = image.shape[1:]
        corners = box_convert(boxes.float(), "cxcywh", "xyxy").clamp(0, 1) * boxes.new_tensor([w, h, w, h])
        classes = scores.size(1)
        return {"boxes": corners[which // classes], "labels": which % classes + 1, "scores": best}


def labels_of(targets: list[dict[str, Tensor]]) -> Labels:
    """Targets of a DetectionSet in transformers' form; crowds are left out, so they are no foreground."""
    labels = []
    for target in targets:
        h, w = target["input_size"].tolist()
        keep = target["iscrowd"] == 0
        boxes = target["boxes"][keep] / target["boxes"].new_tensor([w, h, w, h])
        boxes = box_convert(boxes, "xyxy", "cxcywh")
        labels.append({"boxes": boxes, "class_labels": target["labels"][keep] - 1})
    return labels


class DetrDetection(Detection):
    """Trains a DetrDetector, alone or under a Distiller.

    Args:
        network: a DetrDetector or a Distiller of two.
        queries: makes the target-aware queries, for a Distiller.
        lr, backbone_lr: of AdamW, which divides both by 10 after 11/12 of the steps; the first 2 % rise.
        weight_decay: of AdamW.
        options: see Detection.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        backbone_lr: float,
        weight_decay: float,
        queries: TargetQueries | None = None,
        **options: Any,
    ) -> None:
        super().__init__(network, None, **options)
        self.queries = queries
        self._rates, self._weight_decay = (lr, backbone_lr), weight_decay

    def alone(self, inputs: list[Tensor], target: Labels) -> Losses:
        output = self.network(inputs, target)
        return output.loss, self.task_terms(output, target)

    def call(self, inputs: list[Tensor], target: Labels) -> tuple:
        boxes, names = ([each[key] for each in target] for key in ("boxes", "class_labels"))
        return inputs, target, self.queries(boxes, names)

    def task_terms(self, output: DetrOutput, target: Labels) -> dict[str, Tensor]:
        return {"task": output.loss}

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, targets = batch
        return super().training_step((images, labels_of(targets)), index)

    def configure_optimizers(self) -> dict[str, Any]:
        parameters: list[list[nn.Parameter]] = [[], []]
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parameters[".backbone." in name].append(parameter)
        groups = [{"params": p, "lr": lr} for p, lr in zip(parameters, self._rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, weight_decay=self._weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / max(1, steps // 50)) * (0.1 if step >= steps * 11 / 12 else 1.0)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def student_loss(output: DetrOutput, _: Labels) -> Tensor:
    """The student's own loss, which its model has computed: a Distiller's task_loss."""
    return output.loss


def distiller(
    student: DetrDetector,
    teacher: DetrDetector,
    memory: nn.Module,
    logits: nn.Module,
    *,
    memory_weight: float = 1.0,
    logit_weight: float = 1.0,
) -> kdfast.Distiller:
    """The student under its own loss, LCMD and TCLD.

    Args:
        memory, logits: a MemoryDistillation and a ConsistentLogitDistillation.
        memory_weight, logit_weight: of the two terms.
    """
    terms = [
        kdfast.Term(memory, name="lcmd", weight=memory_weight, target=True),
        kdfast.Term(logits, name="tcld", weight=logit_weight),
    ]
    return kdfast.Distiller(student, teacher, terms=terms, task_loss=student_loss)
