"""The student's two linear heads on one embedding z [N, D].

    a = W_ce z + b_ce                                supervised head
    b = W_kd z + b_kd                                distillation head, plain
    b = scale (W_kd z / max(|z|, 1e-12) + b_kd)      distillation head, aligned with a VLM's scaled cosine

Each loss has a head of its own, so that the directions in which labels and teacher pull disagree only in the
backbone, not in one classifier (arXiv 2505.07675).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TINY = 1e-12  # smallest |z| that is divided by


class DualHead(nn.Module):
    """Embedding [N, D] -> (logits of the supervised head, logits of the distillation head), [N, C] each.

    Args:
        in_features, num_classes: D and C.
        align_kd: normalise z for the distillation head and multiply by `scale`, bias included, as the
            official code does where the student is a vision-language model too.
        scale: of the aligned head.
        init_text: [C, D], text embeddings of the classes by the student's own text encoder; both heads
            start from them, with zero biases (see zero_shot.class_embeddings). None: torch's default.

    Raises ValueError for sizes below 1, a scale that is not above 0, or embeddings of another shape.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        align_kd: bool = False,
        scale: float = 100.0,
        init_text: Tensor | None = None,
    ) -> None:
        super().__init__()
        if in_features < 1 or num_classes < 1:
            raise ValueError(
                f"in_features and num_classes must be at least 1, got {in_features} and {num_classes}"
            )
        if not (scale > 0 and math.isfinite(scale)):
            raise ValueError(f"scale must be a number above 0, got {scale}")
        self.align_kd, self.scale = align_kd, scale
        self.ce_head = nn.Linear(in_features, num_classes)
        self.kd_head = nn.Linear(in_features, num_classes)
        if init_text is not None:
            self._start_from(init_text)

    def _start_from(self, text: Tensor) -> None:
        wanted = tuple(self.ce_head.weight.shape)
        if tuple(text.shape) != wanted:
            raise ValueError(
                f"init_text must have shape [num_classes, in_features] = {list(wanted)}, "
                f"got {list(text.shape)}"
            )
        with torch.no_grad():
            for head in (self.ce_head, self.kd_head):
                head.weight.copy_(text)
                head.bias.zero_()

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        if not self.align_kd:
            return self.ce_head(embedding), self.kd_head(embedding)
        unit = F.normalize(embedding, dim=-1, eps=TINY)
        return self.ce_head(embedding), self.scale * self.kd_head(unit)

    def extra_repr(self) -> str:
        return f"align_kd={self.align_kd}, scale={self.scale}"


class SingleHead(nn.Module):
    """One linear head that gets both losses: what DualHead is compared with. Returns its logits twice."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(embedding)
        return logits, logits


class HeadedStudent(nn.Module):
    """backbone: images [N, C, S, S] -> z [N, D], and a head that gives (a, b).

    split: in training, run the first `split` rows, the labelled ones, and the rest one after the other, so
        that batch norms see them apart (as the official code does for small data sets). 0: all at once, with
        joint statistics (as it does for ImageNet).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, *, split: int = 0) -> None:
        super().__init__()
        self.backbone, self.head, self.split = backbone, head, split

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not (self.split and self.training):
            return self.head(self.backbone(images))
        halves = (images[: self.split], images[self.split :])
        return self.head(torch.cat([self.backbone(half) for half in halves if len(half)]))
