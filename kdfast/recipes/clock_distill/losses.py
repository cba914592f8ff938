"""The two terms of CLoCKDistill (Lan and Tian, arXiv 2502.10683), as losses of a student's and a teacher's
`DetrOutput`.

LCMD = alpha sum M S |A_t - A_s|^2 + beta sum (1 - M) S |A_t - A_s|^2, summed over tokens and features, / B
TCLD = sum over layers of  l_cls sum_q w_q KL_q + l_1 mean_w L1_q + l_giou mean_w (1 - GIoU_q)

A: encoder memories; M, S: inside a box, and one over the cells of the smallest box (or of the background).
q: target-aware queries; w_q = max_c sigmoid(teacher logit); mean_w: sum of w x value / sum of w; KL_q = T^2
KL of the softmaxes at temperature T, / number of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.loss import _Loss

import kdfast.functional as KF
from kdfast.recipes.clock_distill.inject import DetrOutput

Label = Mapping[str, Tensor]
Shapes = Sequence[tuple[int, int]]
_LEAST = 1e-6  # sum of confidences below which a layer's boxes count as unknown


class MemoryDistillation(_Loss):
    """LCMD on `DetrOutput.memory`; the batch's labels are its third argument.

    Args:
        alpha, beta: weights of foreground and background.
        channels: "sum" over features, or their "mean" (D times smaller).
        fgd_compat: rasterise as FGD does: by the image's size and not the padded input's, and one cell more
            at each box's end.
    """

    def __init__(
        self,
        *,
        alpha: float = 5e-5,
        beta: float = 1e-7,
        channels: Literal["sum", "mean"] = "sum",
        fgd_compat: bool = False,
    ) -> None:
        super().__init__()
        if channels not in ("sum", "mean"):
            raise ValueError(f"channels must be 'sum' or 'mean', got {channels!r}")
        self.alpha, self.beta, self.channels, self.fgd_compat = alpha, beta, channels, fgd_compat

    def forward(self, student: DetrOutput, teacher: DetrOutput, labels: Sequence[Label]) -> Tensor:
        """labels: of each image, "boxes" [n, 4], cxcywh of the image (without padding). -> 0-d."""
        if student.shapes != teacher.shapes:
            raise ValueError(
                "teacher and student must have feature levels of the same sizes, got "
                f"{student.shapes} (student) and {teacher.shapes} (teacher)"
            )
        boxes = [label["boxes"] for label in labels]
        s, t, mask = student.memory, teacher.memory, student.memory_mask
        if self.fgd_compat:
            weight = fgd_weights(boxes, student.shapes, alpha=self.alpha, beta=self.beta).to(s.device)
            weight = weight if mask is None else weight * mask
            loss = KF.weighted_mse(s, t, position=weight)[0] / max(s.size(0), 1)
        else:
            padded = [b * extent for b, extent in zip(boxes, student.extents, strict=True)]
            loss = KF.box_weighted_mse(
                s, t, padded, student.shapes, alpha=self.alpha, beta=self.beta, mask=mask
            )
        return loss / s.size(-1) if self.channels == "mean" else loss


def fgd_weights(boxes: Sequence[Tensor], shapes: Shapes, *, alpha: float, beta: float) -> Tensor:
    """Weights [B, N] as FGD rasterises: cells floor(x1 W) ... ceil(x2 W), its last cell included, the area
    counted even where the grid ends. boxes: B tensors [n, 4], cxcywh of the image.
    """
    rows = []
    for own in boxes:
        levels = []
        for h, w in shapes:
            inside = torch.zeros(h, w)
            for cx, cy, width, height in own.tolist():
                x1, x2 = int((cx - width / 2) * w), -int(-(cx + width / 2) * w // 1)
                y1, y2 = int((cy - height / 2) * h), -int(-(cy + height / 2) * h // 1)
                cells = inside[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1]
                cells.copy_(cells.clamp(min=1 / ((x2 + 1 - x1) * (y2 + 1 - y1))))
            outside = inside == 0
            share = beta / max(int(outside.sum()), 1)
            levels.append(torch.where(outside, share, alpha * inside).flatten())
        rows.append(torch.cat(levels))
    return torch.stack(rows)


class ConsistentLogitDistillation(_Loss):
    """TCLD on the external queries' logits and boxes in `DetrOutput`, all layers at once.

    Args:
        classification, l1, giou: lambda of the three parts.
        temperature: T.
        form: "kl" of softmaxes, summed over queries; or "bce" of sigmoids, their weighted mean.
    """

    def __init__(
        self,
        *,
        classification: float = 1.0,
        l1: float = 5.0,
        giou: float = 2.0,
        temperature: float = 10.0,
        form: Literal["kl", "bce"] = "kl",
    ) -> None:
        super().__init__()
        if form not in ("kl", "bce"):
            raise ValueError(f"form must be 'kl' or 'bce', got {form!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.classification, self.l1, self.giou = classification, l1, giou
        self.temperature, self.form = temperature, form

    def forward(self, student: DetrOutput, teacher: DetrOutput) -> Tensor:
        """-> 0-d; 0, attached to the graph, for a batch without objects."""
        if student.external_logits.shape != teacher.external_logits.shape:
            raise ValueError(
                "teacher and student must have as many decoder layers and classes, got "
                f"{tuple(student.external_logits.shape)} (student) and "
                f"{tuple(teacher.external_logits.shape)} (teacher)"
            )
        confidence = confidences(teacher.external_logits, student.real)  # [L, B, E]
        scores = self._classes(student.external_logits, teacher.external_logits, confidence)
        boxes = KF.box_loss(
            student.external_boxes,
            teacher.external_boxes,
            weight=confidence,
            l1=self.l1,
            giou=self.giou,
            reduction="none",
        )
        return self.classification * scores + _mean_by_layer(boxes, confidence)

    def _classes(self, student: Tensor, teacher: Tensor, confidence: Tensor) -> Tensor:
        if self.form == "kl":
            total = KF.kl_div(
                student, teacher, temperature=self.temperature, mask=confidence, reduction="sum"
            )
            return total / student.size(-1)
        soft = (teacher / self.temperature).sigmoid()
        value = F.binary_cross_entropy_with_logits(student / self.temperature, soft, reduction="none")
        return _mean_by_layer(confidence * value.mean(-1) * self.temperature**2, confidence)


def confidences(teacher_logits: Tensor, real: Tensor) -> Tensor:
    """w = max_c sigmoid(logit) [L, B, E], without gradient, 0 in padding. real: bool [B, E]."""
    return teacher_logits.detach().float().amax(-1).sigmoid() * real


def _mean_by_layer(weighted: Tensor, weight: Tensor) -> Tensor:
    """sum over layers of (sum of weighted values / sum of weights) [L, B, E] -> 0-d."""
    total = weight.sum((1, 2)).clamp(min=_LEAST)
    return (weighted.sum((1, 2)) / total).sum()
