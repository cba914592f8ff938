"""DeiT++: DeiT with a distillation token (Touvron et al., ICML 2021) and the ND term.

    loss = 0.5 CE(cls, mixed labels) + 0.5 CE(dist, argmax t) + nd L_nd((f_cls + f_dist) / 2, g, mixed means)

Mixup or cutmix mixes each image with its mirror in the batch by a share lam. Class means are mixed alike:
with label smoothing eps over K classes, off = eps / K, on = 1 - eps + off,

    c'_i = (on - off) c_{y_i} + off sum_{j in batch} c_{y_j}        c''_i = lam c'_i + (1 - lam) c'_{B-1-i}

(the official code smooths over the batch, not over the classes; arXiv 2305.17007).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdfast
import kdfast.functional as KF
from kdfast.recipes.common.classify import Distilled
from kdfast.recipes.common.network_parts import expose_embedding
from kdfast.recipes.nd.adapter import EmbeddingAdapter


class Mixed(NamedTuple):
    """Labels [B] of a mixed batch; image i is `lam` of label i and 1 - lam of label B - 1 - i."""

    labels: Tensor
    lam: float

    def soft(self, classes: int, smoothing: float) -> Tensor:
        """Smoothed, mixed labels [B, classes]."""
        off = smoothing / classes
        rows = F.one_hot(self.labels, classes) * (1 - smoothing) + off
        return self.lam * rows + (1 - self.lam) * rows.flip(0)


class Mixup(nn.Module):
    """Mixup (alpha 0.8) or cutmix (alpha 1), half the batches each: images, labels -> images, Mixed.

    Draws from numpy's generator, which recipes seed every epoch. 0 turns one off.
    """

    def __init__(self, *, mixup: float = 0.8, cutmix: float = 1.0) -> None:
        super().__init__()
        self.mixup, self.cutmix = mixup, cutmix

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Mixed]:
        if not (self.mixup or self.cutmix):
            return images, Mixed(labels, 1.0)
        cut = self.cutmix > 0 and (not self.mixup or np.random.rand() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        lam = float(np.random.beta(alpha, alpha))
        if not cut:
            return lam * images + (1 - lam) * images.flip(0), Mixed(labels, lam)
        top, bottom, left, right = _box(*images.shape[2:], lam)
        images = images.clone()
        images[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
        lam = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
        return images, Mixed(labels, lam)


def _box(height: int, width: int, lam: float) -> tuple[int, int, int, int]:
    """A box of the share 1 - lam around a random point, cut at the edges: top, bottom, left, right."""
    ratio = (1 - lam) ** 0.5
    y, x = np.random.randint(height), np.random.randint(width)
    rows, columns = int(height * ratio) // 2, int(width * ratio) // 2
    return max(0, y - rows), min(height, y + rows), max(0, x - columns), min(width, x + columns)


def mixed_means(class_means: Tensor, target: Mixed, *, smoothing: float = 0.1) -> Tensor:
    """The direction [B, D] of every sample: c'' of this file's first lines."""
    off = smoothing / class_means.shape[0]
    on = 1 - smoothing + off
    rows = class_means[target.labels]
    smooth = (on - off) * rows + off * rows.sum(0)
    return target.lam * smooth + (1 - target.lam) * smooth.flip(0)


class TokenLoss(nn.Module):
    """The labels' half of DeiT's loss: 0.5 CE of the class token with the mixed labels."""

    def __init__(self, classes: int, *, smoothing: float = 0.1) -> None:
        super().__init__()
        self.classes, self.smoothing = classes, smoothing

    def forward(self, output: Any, target: Mixed) -> Tensor:
        cls = output[0] if isinstance(output, tuple) else output
        return 0.5 * KF.soft_cross_entropy(cls, target.soft(self.classes, self.smoothing))


class HardDistillation(nn.Module):
    """CE of the distillation token with the teacher's decision."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.cross_entropy(student.float(), teacher.argmax(-1))


class MixedND(nn.Module):
    """The ND loss with the batch's mixed class means as directions."""

    def __init__(self, class_means: Tensor, *, smoothing: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("class_means", class_means, persistent=False)
        self.smoothing = smoothing

    def forward(self, student: Tensor, teacher: Tensor, target: Mixed) -> Tensor:
        means = mixed_means(self.class_means, target, smoothing=self.smoothing)
        return KF.nd_loss(student, teacher, means, torch.arange(len(means), device=means.device))


class TokenMean(nn.Module):
    """The mean of the two tokens' embeddings, in the teacher's width."""

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        same = student_dim == teacher_dim
        self.project = nn.Identity() if same else EmbeddingAdapter(student_dim, teacher_dim)

    def forward(self, tokens: tuple[Tensor, Tensor]) -> Tensor:
        return self.project((tokens[0] + tokens[1]) / 2)


def deit_distiller(
    student: nn.Module,
    teacher: nn.Module,
    class_means: Tensor,
    *,
    nd: float = 1.5,
    smoothing: float = 0.1,
    **options: Any,
) -> kdfast.Distiller:
    """A distilled DeiT (timm's deit_*_distilled_*) under DeiT++; its targets are Mixed.

    Raises ValueError for a student without a distillation token.
    """
    if not hasattr(student, "head_dist"):
        raise ValueError("deit++ needs a student with a distillation token: timm's deit_..._distilled_...")
    student.set_distilled_training(True)
    _, width = expose_embedding(student)
    theirs, dim = expose_embedding(teacher)
    ours = tuple(_expose(student, name) for name in ("head", "head_dist"))
    terms = [
        kdfast.Term(HardDistillation(), "[1]", name="dist", weight=0.5),
        kdfast.Term(
            MixedND(class_means, smoothing=smoothing), ours, theirs, name="nd", weight=nd,
            adapter=TokenMean(width, dim), target=True,
        ),
    ]  # fmt: skip
    loss = TokenLoss(class_means.shape[0], smoothing=smoothing)
    return kdfast.Distiller(student, teacher, terms, loss, **options)


def _expose(network: nn.Module, head: str) -> str:
    return expose_embedding(network, head)[0]


class DistilledDeiT(Distilled):
    """A DeiT under `deit_distiller`; its batches are mixed, its accuracy is that of both heads together."""

    def __init__(self, *arguments: Any, mixup: Mixup | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mix = Mixup() if mixup is None else mixup

    def losses(self, images: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        images, mixed = self.mix(images, target)
        out = self.forward_distiller(images, mixed)
        terms = dict(out.terms)
        terms["task"] = self.network.task_loss(out.output[0].detach(), mixed)
        return out.loss, terms, (out.output[0] + out.output[1]) / 2
