"""The losses of KD-OCT (arXiv 2512.09069).

Teacher: n_i = -log p_y, w class weights,

    standard  mean of w_y (1 - p_y)^2 n_i              the paper's formula (Lin et al. 2017)
    kdoct     mean of (1 - p_y^{w_y})^2 w_y n_i        the official code, whose weights are inside the focus

Student: 0.3 CE + 0.7 T^2 KL(teacher || student), both in float32 whatever the autocast.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

import kdfast
import kdfast.functional as KF


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """N / (K n_c) [K], float32. Raises ValueError for a class without a label."""
    counts = torch.bincount(labels, minlength=classes)
    if (counts == 0).any():
        missing = (counts == 0).nonzero().flatten().tolist()
        raise ValueError(
            f"no image of class {', '.join(map(str, missing))}: balanced weights need every class"
        )
    return (len(labels) / (classes * counts.double())).float()


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    mode: Literal["standard", "kdoct"] = "kdoct",
    gamma: float = 2.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Either form: logits [B, K], classes [B], class weights [K] -> mean over B, 0-d."""
    if mode not in ("standard", "kdoct"):
        raise ValueError(f"mode {mode!r}: standard or kdoct is needed")
    return KF.focal_loss(logits, target, gamma=gamma, weight=weight, weight_in_pt=mode == "kdoct")


class TeacherLoss(nn.Module):
    """focal_loss with the weights of the training fold, or without (None)."""

    weight: Tensor | None

    def __init__(
        self, weight: Tensor | None, *, mode: Literal["standard", "kdoct"] = "kdoct", gamma: float = 2.0
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.mode, self.gamma = mode, gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return focal_loss(logits, target, mode=self.mode, gamma=self.gamma, weight=self.weight)


class ScaledCrossEntropy(nn.Module):
    """`scale` x the mean over the batch of w_y n_i, in float32; without `weight`, w_y = 1."""

    weight: Tensor | None

    def __init__(self, scale: float = 1.0, weight: Tensor | None = None) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        each = nn.functional.cross_entropy(logits.float(), target, reduction="none")
        return self.scale * (each if self.weight is None else self.weight[target] * each).mean()


def distiller(
    student: nn.Module,
    teacher: nn.Module,
    *,
    ce: float = 0.3,
    kl: float = 0.7,
    temperature: float = 4.0,
    weight: Tensor | None = None,
    teacher_dtype: torch.dtype | None = None,
) -> kdfast.Distiller:
    """The student under ce CE + kl T^2 KL; the teacher looks at the same augmented images.

    weight: of the classes in the cross-entropy; the paper has none.
    """
    term = kdfast.Term(kdfast.nn.KLDivLoss(temperature=temperature), name="kl", weight=kl)
    return kdfast.Distiller(
        student, teacher, [term], ScaledCrossEntropy(ce, weight), teacher_dtype=teacher_dtype
    )
