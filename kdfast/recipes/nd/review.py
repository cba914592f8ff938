"""ReviewKD: every stage of the teacher is reviewed by a fusion of the student's stages up to it.

Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv 2104.09044.

    y_L = ABF_L(f_L)      y_l = ABF_l(f_l, r_{l+1})      loss = sum_l HCL(y_l, g_l)

f, g: maps of student and teacher from shallow to deep, r: what the fusion of the deeper level leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdfast.functional as KF

Shape = tuple[int, int, int]  # C, H, W; an embedding [B, D] is a map (D, 1, 1)


class ABF(nn.Module):
    """Attention-based fusion of one level with what the deeper one leaves.

    x [B, inputs, H, W] and r [B, middle, h, w] -> the level's output [B, outputs, H', W'] and what it leaves
    [B, middle, H, W]. Two maps of attention weigh x and r place by place. `fuse` False: the deepest level,
    which has no r.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, fuse: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle))
        self.attend = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuse else None
        self.expand = nn.Sequential(
            nn.Conv2d(middle, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        nn.init.kaiming_uniform_(self.reduce[0].weight, a=1)
        nn.init.kaiming_uniform_(self.expand[0].weight, a=1)

    def forward(self, x: Tensor, left: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """size: H', W' of the teacher's map."""
        x = self.reduce(x)
        if self.attend is not None:
            left = F.interpolate(left, x.shape[2:], mode="nearest")
            weights = self.attend(torch.cat([x, left], dim=1))  # [B, 2, H, W]
            x = x * weights[:, :1] + left * weights[:, 1:]
        wide = x if x.shape[2:] == size else F.interpolate(x, size, mode="nearest")
        return self.expand(wide), x


class ReviewKD(nn.Module):
    """The loss of all levels: ReviewKD(student_shapes, teacher_shapes)(student_maps, teacher_maps).

    Args:
        student_shapes, teacher_shapes: of the maps, from shallow to deep, without the batch.
        middle: channels within the fusion; min(512, the deepest student level's) as in the official code.

    Raises ValueError where the numbers of levels differ.
    """

    def __init__(
        self, student_shapes: Sequence[Shape], teacher_shapes: Sequence[Shape], *, middle: int = 0
    ) -> None:
        super().__init__()
        if len(student_shapes) != len(teacher_shapes):
            raise ValueError(
                f"the student has {len(student_shapes)} levels and the teacher {len(teacher_shapes)}; "
                "as many are needed"
            )
        middle = middle or min(512, student_shapes[-1][0])
        deepest = len(student_shapes) - 1
        self.fusions = nn.ModuleList(
            ABF(ours[0], middle, theirs[0], fuse=level < deepest)
            for level, (ours, theirs) in enumerate(zip(student_shapes, teacher_shapes, strict=True))
        )

    def outputs(self, student: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The fused maps of all levels, from shallow to deep, in the teacher's sizes."""
        found, left = [], None
        for fusion, x, size in zip(reversed(self.fusions), reversed(student), reversed(sizes), strict=True):
            output, left = fusion(x, left, size)
            found.insert(0, output)
        return found

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Maps [B, C, H, W] or embeddings [B, D] -> 0-d."""
        student, teacher = ([_as_map(x) for x in maps] for maps in (student, teacher))
        outputs = self.outputs(student, [tuple(t.shape[2:]) for t in teacher])
        return torch.stack([KF.hcl_loss(s, t) for s, t in zip(outputs, teacher, strict=True)]).sum()


def _as_map(x: Tensor) -> Tensor:
    return x[:, :, None, None] if x.dim() == 2 else x
