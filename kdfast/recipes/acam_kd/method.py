"""ACAM-KD over the levels of a pyramid: a module for each level, their sum, and a Term of a Distiller.

    loss = sum over levels of alpha (L^s + L^c) + lambda L_div       alpha = lambda = 1

level.py has the equations of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdfast.nn import CooperativeMasks
from kdfast.ops import _check
from kdfast.recipes.acam_kd.level import ACAMLevel

Maps = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class ACAMDistiller(nn.Module):
    """ACAM-KD over the levels of a pyramid, or on one map.

    forward(student maps, teacher maps, valid_masks=None) gives a dict of 0-d tensors: "loss", the weighted
    total; "loss_s", "loss_c", "loss_div", sums over levels before alpha and lambda; the same with "/LEVEL"
    for each level; and each level's mask statistics, "spatial_mean/LEVEL" and so on, detached. Maps are one
    tensor, a sequence, or a mapping by level name ("0", "1", ... for the others).

    Args:
        channels: C of the teacher's maps, one number or one for each level.
        student_channels: of the student's maps; the teacher's by default.
        num_masks: M selection units; the paper: 6 in detection, 19 (the classes) on Cityscapes.
        alpha, lambda_div: weights of L^s + L^c and of L_div.
        levels: names of the levels, "0", "1", ... by default.
        div: how L_div is formed, "ratio_of_sums" (as printed) or "pairwise_mean" (MasKD's dice_coeff).
        div_masks: which masks L_div keeps apart, "both" or "spatial".
        losses: which there are, "both", "spatial" or "channel" (the paper's ablation).
        mask_norm: "l1" divides by sum M, "l2" (experimental) by sum M^2: the first lets masks shrink to
            lower the loss, the second does not.
        normalizer: "acam", or "maskd_seg": halved, eps beside sum M.
        eps: in the denominators.
        align_init: of the 1 x 1 convolution: "random", as torch draws it; "identity" for maps whose channels
            mean the same in both networks, as logits do, which are then compared class by class at once.
        kv_pool: max-pool keys and values by this factor (CanKD: 2). None is exact, in O(H W) memory.
        shared: "none", a module for each level; "units", one set of selection units; "all", one attention
            for all levels. Alignment stays one a level.
        detach_masks: the imitation losses do not train the masks, L_div alone does.
        detach_student_in_attention: the student gets no gradient through the masks.
        statistics: give the masks' statistics too, a few small operations a level.

    Raises TypeError or ValueError for bad options and for maps that do not fit, naming the level.
    """

    def __init__(
        self,
        channels: int | Sequence[int],
        student_channels: int | Sequence[int] | None = None,
        *,
        num_masks: int = 6,
        alpha: float = 1.0,
        lambda_div: float = 1.0,
        levels: Sequence[str] | None = None,
        shared: str = "none",
        **options: Any,
    ) -> None:
        super().__init__()
        channels = _widths("channels", channels)
        given = channels if student_channels is None else _widths("student_channels", student_channels)
        if len(given) != len(channels):
            raise ValueError(
                f"student_channels has {len(given)} levels and channels {len(channels)}; as many are needed"
            )
        self.levels = tuple(map(str, range(len(channels)) if levels is None else levels))
        if len(self.levels) != len(channels):
            raise ValueError(f"levels names {len(self.levels)} levels, channels has {len(channels)}")
        if shared not in ("none", "units", "all"):
            raise ValueError(f"shared must be one of none, units, all, got {shared!r}")
        if shared != "none" and len(set(zip(channels, given, strict=True))) > 1:
            raise ValueError(f"shared={shared!r} needs equal channels in all levels, got {channels}, {given}")
        for name, value in (("alpha", alpha), ("lambda_div", lambda_div)):
            if not value >= 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        self.alpha, self.lambda_div = float(alpha), float(lambda_div)
        self.per_level = nn.ModuleList()
        first: CooperativeMasks | None = None
        for width, own in zip(channels, given, strict=True):
            common = {} if first is None or shared == "none" else {_SHARED[shared]: first}
            self.per_level.append(ACAMLevel(width, own, num_masks=num_masks, **options, **common))
            first = first or self.per_level[0].attention

    def forward(
        self, student: Maps, teacher: Maps, valid_masks: Sequence[Tensor] | None = None
    ) -> dict[str, Tensor]:
        ours, theirs = self._named("student", student), self._named("teacher", teacher)
        found: dict[str, Tensor] = {}
        for number, (name, level) in enumerate(zip(self.levels, self.per_level, strict=True)):
            self._check_level(name, ours[name], theirs[name])
            valid = None if valid_masks is None else valid_masks[number]
            parts = level(ours[name], theirs[name], valid_mask=valid)
            found |= {f"{key}/{name}": value for key, value in parts.items()}
        for key in ("loss_s", "loss_c", "loss_div"):
            found[key] = torch.stack([found[f"{key}/{name}"] for name in self.levels]).sum()
        imitation = found["loss_s"] + found["loss_c"]
        return {"loss": self.alpha * imitation + self.lambda_div * found["loss_div"], **found}

    def masks(self, student: Maps, teacher: Maps) -> dict[str, tuple[Tensor, Tensor]]:
        """Level -> (spatial [B, M, H, W], channel [B, M, C])."""
        ours, theirs = self._named("student", student), self._named("teacher", teacher)
        pairs = zip(self.levels, self.per_level, strict=True)
        return {name: level.attention(ours[name], theirs[name]) for name, level in pairs}

    def _named(self, role: str, maps: Maps) -> dict[str, Tensor]:
        if isinstance(maps, Tensor):
            maps = [maps]
        if not isinstance(maps, Mapping):
            maps = dict(zip(map(str, self.levels), maps, strict=True)) if len(maps) == len(self.levels) else {
                str(number): each for number, each in enumerate(maps)
            }  # fmt: skip
        if list(maps) != list(self.levels):
            raise ValueError(f"the {role} has levels {list(maps)}; {list(self.levels)} are needed")
        return dict(maps)

    @staticmethod
    def _check_level(name: str, student: Tensor, teacher: Tensor) -> None:
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"level {name!r} is {tuple(student.shape[2:])} in the student and "
                f"{tuple(teacher.shape[2:])} in the teacher; equal heights and widths are needed"
            )


_SHARED = {"units": "units", "all": "attention"}


def _widths(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    if not values:
        raise ValueError(f"{name} is empty; a number of channels for each level is needed")
    return tuple(_check.whole_number(name, each, 1) for each in values)


class ACAMTerm(nn.Module):
    """An ACAMDistiller as the loss of a kdfast.Term: returns the total and keeps the parts in `last`.

    In a Term with target=True the targets of a detector's batch (see DetectionSet) say which positions lie
    on the padding beside smaller images; they then neither attend nor count.
    """

    def __init__(self, distiller: nn.Module) -> None:
        super().__init__()
        self.distiller = distiller
        self.last: dict[str, Tensor] = {}

    def forward(self, student: Maps, teacher: Maps, target: Sequence[Mapping[str, Tensor]] = ()) -> Tensor:
        valid = None
        if len(target):
            sizes = torch.stack([each["input_size"] for each in target])
            valid = [inside(sizes, level.shape[2:]) for level in student.values()]
        found = self.distiller(student, teacher, valid)
        self.last = {name: value.detach() for name, value in found.items() if name != "loss"}
        return found["loss"]


def inside(sizes: Tensor, shape: Sequence[int], divisor: int = 32) -> Tensor:
    """Which positions of a level begin inside their image: bool [B, h, w].

    sizes: heights and widths of the images [B, 2]; shape: (h, w) of the level, of a batch padded to the
    largest image and then to multiples of `divisor`, as torchvision's detectors do.
    """
    padded = (sizes.amax(0) + divisor - 1) // divisor * divisor
    within = [
        torch.arange(count, device=sizes.device) * padded[axis] < sizes[:, axis, None] * count
        for axis, count in enumerate(shape)
    ]
    return within[0].unsqueeze(2) & within[1].unsqueeze(1)
