"""The losses of a step: detection where old classes are unlabelled, and distillation from the previous head.

K: the teacher's classes with background (class 0); the student has K and the new ones behind them. s, b, m:
logits, box deltas and mask logits of the same regions in the student's and the teacher's head.

    classes  "uce": -1/(R K) sum q log p~, new classes folded into background; "l2": squared difference of
             centred logits (ILOD); "ce", "ce_ada": cross-entropy over the first K logits, mean or sum over
             classes; "ce_all": the student's softmax over all its classes, cut to K
    boxes    mean over regions and old classes of |b_s - b_t|^2
    masks    binary cross-entropy with sigmoid(m_t), background included
    rpn      max(o_t - o_s, 0)^2, and |r_t - r_s|^2 where o_t - o_s > 0.1
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

import kdfast.functional as KF
from kdfast.recipes.dynamic_ykd.network import Proposals, RoIOutputs

Form = Literal["uce", "l2", "ce", "ce_ada", "ce_all"]
FORMS = ("uce", "l2", "ce", "ce_ada", "ce_all")


def class_distillation(student: Tensor, teacher: Tensor, *, form: Form = "uce") -> Tensor:
    """student [R, K + new], teacher [R, K] logits -> 0-d; 0, attached, for R = 0."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    known, teacher = teacher.size(1), teacher.detach()
    if form == "uce":
        return KF.unbiased_kl_div(student, teacher, num_new=student.size(1) - known)
    if not len(student):
        return student.float().sum()
    if form == "l2":
        centred = student - student.mean(1, keepdim=True)
        return F.mse_loss(centred[:, :known], teacher - teacher.mean(1, keepdim=True))
    if form == "ce_all":
        return -(teacher.softmax(1) * student.log_softmax(1)[:, :known]).mean()
    value = KF.soft_cross_entropy(student[:, :known], teacher.softmax(1))
    return value if form == "ce_ada" else value / known


def distillation(
    student: RoIOutputs,
    teacher: RoIOutputs,
    student_rpn: Proposals,
    teacher_rpn: Proposals,
    *,
    form: Form = "uce",
) -> dict[str, Tensor]:
    """The terms by name, unweighted: kd_classes, kd_boxes, kd_masks (with masks), kd_rpn."""
    terms = {
        "kd_classes": class_distillation(student.classes, teacher.classes, form=form),
        "kd_boxes": KF.class_box_l2(student.boxes, teacher.boxes),
    }
    if student.masks is not None and teacher.masks is not None:
        terms["kd_masks"] = KF.soft_bce(student.masks, teacher.masks)
    objectness, boxes = KF.rpn_distill(
        student_rpn.objectness, teacher_rpn.objectness, student_rpn.deltas, teacher_rpn.deltas
    )
    return terms | {"kd_rpn": objectness + boxes}


def region_losses(
    classes: Tensor, boxes: Tensor, labels: Tensor, deltas: Tensor, *, num_old: int = 0
) -> dict[str, Tensor]:
    """Losses of labelled regions: cross-entropy and smooth L1 of the deltas of their class.

    Args:
        classes, boxes: logits [R, K] and deltas [R, K, 4].
        labels: [R], 0 for background.
        deltas: [R, 4], what to predict.
        num_old: old classes that the images may hold unlabelled, so that background may be any of them; 0
            for plain cross-entropy.
    """
    rows = (labels > 0).nonzero().flatten()
    mine = boxes[rows, labels[rows]]
    distance = F.smooth_l1_loss(mine, deltas[rows], reduction="sum") / max(labels.numel(), 1)
    return {"classes": KF.unbiased_cross_entropy(classes, labels, num_old=num_old), "boxes": distance}
