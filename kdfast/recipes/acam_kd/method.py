"""ACAM-KD's loss on feature maps (Lan and Tian, ICCV 2025, arXiv 2503.06307), a module for each level.

    M^s, M^c = masks of the features fused by cross-attention    kdfast.nn.CooperativeMasks (STCA-FF, ASCM)
    F_A = 1 x 1 convolution of the student's map
    L^s = 1/M sum_m |M^s_m (F_T - F_A)|^2 / (C sum_p M^s_mp)     kdfast.functional.masked_mse
    L^c = 1/M sum_m |M^c_m (F_T - F_A)|^2 / (H W sum_k M^c_mk)
    L_div = 2 sum_{i != j} M_i . M_j / sum_{i,j} (|M_i|^2 + |M_j|^2) / 2, of M^s and M^c    dice_diversity
    loss = sum over levels of alpha (L^s + L^c) + lambda L_div       alpha = lambda = 1

There is no public code; what the paper leaves open is an option here, its default first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.nn import CooperativeMasks
from kdfast.ops import _check

DIVERSITY = ("ratio_of_sums", "pairwise_mean")
DIVERSE = ("both", "spatial")
LOSSES = ("both", "spatial", "channel")
NORMS = ("l1", "l2")
NORMALIZERS = ("acam", "maskd_seg")
Maps = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class ACAMLevel(nn.Module):
    """The loss of one level: student [B, C_s, H, W] and teacher [B, C, H, W] to a dict of 0-d tensors.

    Keys: loss_s, loss_c, loss_div, and the masks' statistics (detached). Arguments are ACAMDistiller's.
    """

    def __init__(
        self,
        channels: int,
        student_channels: int,
        *,
        num_masks: int = 6,
        div: str = "ratio_of_sums",
        div_masks: str = "both",
        losses: str = "both",
        mask_norm: str = "l1",
        normalizer: str = "acam",
        eps: float = 1e-5,
        kv_pool: int | None = None,
        detach_masks: bool = False,
        detach_student_in_attention: bool = False,
        units: CooperativeMasks | None = None,
        attention: CooperativeMasks | None = None,
        statistics: bool = True,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("div", div, DIVERSITY),
            ("div_masks", div_masks, DIVERSE),
            ("losses", losses, LOSSES),
            ("mask_norm", mask_norm, NORMS),
            ("normalizer", normalizer, NORMALIZERS),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if not eps >= 0:
            raise ValueError(f"eps must be 0 or more, got {eps}")
        self.div, self.div_masks, self.losses = div, div_masks, losses
        self.mask_norm, self.normalizer, self.eps = mask_norm, normalizer, float(eps)
        self.detach_masks = _check.flag("detach_masks", detach_masks)
        self.statistics = _check.flag("statistics", statistics)
        self.align = nn.Conv2d(student_channels, channels, 1)
        self.attention = attention or CooperativeMasks(
            channels,
            student_channels,
            num_masks,
            kv_pool=kv_pool,
            detach_student_in_attention=detach_student_in_attention,
            units=units,
        )

    def forward(
        self, student: Tensor, teacher: Tensor, *, valid_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        spatial, channel = self.attention(student, teacher, valid_mask=valid_mask)
        found = {}
        if self.statistics:
            found = CooperativeMasks.statistics(spatial, channel, valid_mask=valid_mask)
        loss_s, loss_c = self.imitation(self.align(student), teacher, spatial, channel, valid_mask)
        return {"loss_s": loss_s, "loss_c": loss_c, "loss_div": self.diversity(spatial, channel), **found}

    def imitation(
        self,
        aligned: Tensor,
        teacher: Tensor,
        spatial: Tensor,
        channel: Tensor,
        valid_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(L^s, L^c) of masks [B, M, H, W] and [B, M, C]; a kind that is not used is 0."""
        if self.detach_masks:
            spatial, channel = spatial.detach(), channel.detach()
        if self.mask_norm == "l2":
            spatial, channel = over_square_mass(spatial), over_square_mass(channel)
        if valid_mask is not None:  # padding counts in neither kind
            inside = valid_mask.unsqueeze(1)
            aligned, teacher = torch.where(inside, aligned, 0), torch.where(inside, teacher, 0)
        masks = {"spatial": spatial, "channel": channel}
        if self.normalizer == "acam":
            used = {name: mask for name, mask in masks.items() if self.losses in ("both", name)}
            return KF.masked_mse(aligned, teacher, **used, eps=self.eps)
        return tuple(self._maskd(aligned, teacher, name, mask) for name, mask in masks.items())

    def _maskd(self, aligned: Tensor, teacher: Tensor, kind: str, masks: Tensor) -> Tensor:
        """MasKD's segmentation loss: halved, with eps beside the mask's mass."""
        if self.losses not in ("both", kind):
            return aligned.new_zeros(())
        count = aligned.size(1) if kind == "spatial" else aligned.size(2) * aligned.size(3)
        value = KF.masked_mse(aligned, teacher, **{kind: masks}, eps=count * self.eps)
        return 0.5 * (value[0] if kind == "spatial" else value[1])

    def diversity(self, spatial: Tensor, channel: Tensor) -> Tensor:
        """L_div of the masks that are used."""
        kinds = {"spatial": spatial, "channel": channel}
        if self.div_masks == "spatial" and self.losses != "channel":
            kinds.pop("channel")
        chosen = [masks for name, masks in kinds.items() if self.losses in ("both", name)]
        values = [KF.dice_diversity(masks, form=self.div) for masks in chosen]
        if len(chosen) < 2:  # DDP wants every parameter in the graph
            values.append(0 * (spatial.sum() + channel.sum()))
        return torch.stack(values).sum()

    def extra_repr(self) -> str:
        options = ("div", "div_masks", "losses", "mask_norm", "normalizer", "eps", "detach_masks")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)


def over_square_mass(masks: Tensor) -> Tensor:
    """Masks scaled by sum M / sum M^2, which turns a division by their mass into one by their square mass.

    With r = sum M / sum M^2: sum (r M)^2 e / sum r M = sum M^2 e / sum M^2. The loss then does not shrink
    with the masks, so nothing is won by shrinking them. masks: [B, M, ...], not negative.
    """
    flat = masks.flatten(2)
    if flat.numel() == 0:
        return masks
    scale = flat.detach().amax(2, keepdim=True).clamp(min=1e-18)  # squares of collapsed masks would underflow
    flat = flat / scale
    ratio = flat.sum(2, keepdim=True) / flat.square().sum(2, keepdim=True).clamp(min=1e-20)
    return (flat * ratio).view_as(masks)


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
