"""The two terms in plain PyTorch, as DETR distillers write them: a yardstick of cost, and a second opinion.

Boxes are rasterised one by one with their corners read back; GIoU is the diagonal of the matrix of all pairs;
layers are a loop. Same values as `MemoryDistillation()` and `ConsistentLogitDistillation()`, defaults alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from kdfast.recipes.clock_distill.inject import DetrOutput
from kdfast.recipes.clock_distill.losses import Label, Shapes

_SLACK = 1e-3  # of a cell, as KF.box_weighted_mse counts


def memory(
    student: DetrOutput, teacher: DetrOutput, labels: Sequence[Label], alpha: float = 5e-5, beta: float = 1e-7
) -> Tensor:
    """LCMD."""
    boxes = [label["boxes"] * e for label, e in zip(labels, student.extents, strict=True)]
    return memory_of(student.memory, teacher.memory, boxes, student.shapes, student.memory_mask, alpha, beta)


def memory_of(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Tensor],
    shapes: Shapes,
    mask: Tensor | None = None,
    alpha: float = 5e-5,
    beta: float = 1e-7,
) -> Tensor:
    """LCMD of memories [B, N, D]; boxes are B tensors [n, 4], cxcywh of the padded input."""
    losses, begin = [], 0
    for h, w in shapes:
        level = slice(begin, begin + h * w)
        begin += h * w
        s, t = student[:, level], teacher[:, level]
        inside, outside = [], []
        for image, own in enumerate(boxes):
            kept = student.new_ones(h * w) if mask is None else mask[image, level].to(student.dtype)
            scale, found = _rasterised(own, h, w, student), 0
            found = (scale > 0).to(student.dtype).flatten() * kept
            back = (1 - found) * kept
            inside.append(scale.flatten() * found)
            outside.append(back / back.sum().clamp(min=1))
        front, back = torch.stack(inside).sqrt()[..., None], torch.stack(outside).sqrt()[..., None]
        losses.append(alpha * F.mse_loss(s * front, t * front, reduction="sum"))
        losses.append(beta * F.mse_loss(s * back, t * back, reduction="sum"))
    return sum(losses) / len(boxes)


def _rasterised(boxes: Tensor, h: int, w: int, like: Tensor) -> Tensor:
    """[h, w]: one over the cells of the smallest box, 0 outside."""
    scale = like.new_zeros(h, w)
    for box in box_convert(boxes.float(), "cxcywh", "xyxy"):
        spans = []
        for low, high, size in ((box[1], box[3], h), (box[0], box[2], w)):
            first = math.floor(low.item() * size + _SLACK)
            last = max(math.ceil(high.item() * size - _SLACK) - 1, first)
            spans.append((min(max(first, 0), size - 1), min(max(last, 0), size - 1)))
        (y1, y2), (x1, x2) = spans
        cells = scale[y1 : y2 + 1, x1 : x2 + 1]
        cells.copy_(cells.clamp(min=1 / ((y2 - y1 + 1) * (x2 - x1 + 1))))
    return scale


def logits(student: DetrOutput, teacher: DetrOutput) -> Tensor:
    """TCLD."""
    parts = (student.external_logits, teacher.external_logits, student.external_boxes, teacher.external_boxes)
    return logits_of(*parts, student.real)


def logits_of(
    student: Tensor, teacher: Tensor, student_boxes: Tensor, teacher_boxes: Tensor, real: Tensor
) -> Tensor:
    """TCLD of logits [L, B, E, C] and boxes [L, B, E, 4]; real: bool [B, E]."""
    total = 0 * (student.sum() + student_boxes.sum())
    if not real.any():
        return total
    for s, t, s_box, t_box in zip(student, teacher, student_boxes, teacher_boxes, strict=True):
        s, t, s_box, t_box = s[real], t[real], s_box[real], t_box[real]
        w = t.sigmoid().max(-1).values
        kl = F.kl_div(F.log_softmax(s / 10, -1), F.softmax(t / 10, -1), reduction="none").mean(-1) * 100
        l1 = F.l1_loss(s_box, t_box, reduction="none").mean(-1)
        corners = (box_convert(x, "cxcywh", "xyxy") for x in (s_box, t_box))
        giou = 1 - torch.diag(generalized_box_iou(*corners))
        total = total + (w * kl).sum() + (w * (5 * l1 + 2 * giou)).sum() / w.sum()
    return total
