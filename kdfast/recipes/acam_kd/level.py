"""ACAM-KD's loss on one feature map (Lan and Tian, ICCV 2025, arXiv 2503.06307).

    M^s, M^c = masks of the features fused by cross-attention    kdfast.nn.CooperativeMasks (STCA-FF, ASCM)
    F_A = 1 x 1 convolution of the student's map
    L^s = 1/M sum_m |M^s_m (F_T - F_A)|^2 / (C sum_p M^s_mp)     kdfast.functional.masked_mse
    L^c = 1/M sum_m |M^c_m (F_T - F_A)|^2 / (H W sum_k M^c_mk)
    L_div = 2 sum_{i != j} M_i . M_j / sum_{i,j} (|M_i|^2 + |M_j|^2) / 2, of M^s and M^c    dice_diversity

There is no public code; what the paper leaves open is an option here, its default first.
"""

from __future__ import annotations

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
ALIGN = ("random", "identity")


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
        align_init: str = "random",
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
            ("align_init", align_init, ALIGN),
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
        if align_init == "identity":
            nn.init.dirac_(self.align.weight)
            nn.init.zeros_(self.align.bias)
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
