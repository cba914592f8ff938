"""The distillation of a step in plain PyTorch, as continual detectors write it: a yardstick of cost, and a
second opinion. Same values as `losses.distillation` with form="uce".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.recipes.dynamic_ykd.network import Proposals, RoIOutputs


def classes(student: Tensor, teacher: Tensor) -> Tensor:
    """-1/(R K) sum q log p~; student [R, K + new], teacher [R, K]."""
    known = teacher.size(1)
    den = torch.logsumexp(student, 1)
    rows = [0, *range(known, student.size(1))]
    background = torch.logsumexp(student[:, torch.tensor(rows, device=student.device)], 1) - den
    old = student[:, 1:known] - den[:, None]
    q = teacher.softmax(1)
    return -((q[:, 0] * background + (q[:, 1:] * old).sum(1)) / known).mean()


def boxes(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the old classes' deltas [R, K, 4]."""
    difference = student[:, 1 : teacher.size(1)] - teacher[:, 1:]
    return (difference**2).sum(-1).mean(1).mean()


def masks(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy with the teacher's probabilities."""
    soft = torch.sigmoid(teacher)
    return F.binary_cross_entropy_with_logits(student[:, : teacher.size(1)], soft)


def rpn(student: Proposals, teacher: Proposals) -> Tensor:
    """Objectness where the teacher's is higher, boxes where it is higher by 0.1; image by image."""
    higher = torch.max(teacher.objectness - student.objectness, torch.zeros_like(student.objectness))
    gate = teacher.objectness > student.objectness + 0.1
    each = []
    for s, t, g in zip(student.deltas, teacher.deltas, gate, strict=True):
        rows = [x.reshape(-1, 4, *x.shape[1:]).permute(0, 2, 3, 1) for x in (s, t)]
        kept = [x * g.to(x.dtype)[..., None] for x in rows]
        each.append(((kept[0] - kept[1]) ** 2).sum(-1).mean())
    return (higher**2).mean() + torch.stack(each).mean()


def distillation(
    student: RoIOutputs,
    teacher: RoIOutputs,
    ours: Proposals,
    theirs: Proposals,
    *,
    classes: Callable[[Tensor, Tensor], Tensor] = classes,
) -> Tensor:
    """The sum of all terms, unweighted."""
    total = classes(student.classes, teacher.classes) + boxes(student.boxes, teacher.boxes)
    if student.masks is not None:
        total = total + masks(student.masks, teacher.masks)
    return total + rpn(ours, theirs)
