"""Masks that student and teacher make together: cross-attention fusion and learned selection units.

Lan & Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV 2025,
arXiv 2503.06307, sections STCA-FF and ASCM:

    Q = W_q teacher, K = W_k student, V = W_v student,  A = softmax_j(Q_i . K_j / sqrt(C // 2)),  F_i = A V
    spatial_m = sigmoid(m^s_m . F),   channel_m = sigmoid(m^c_m mean_i F_i)

F is used for nothing else, so it need not exist: m^s . F = A (m^s V), and the mean of F is V under the column
means of A (kdfast.functional.attention_masks).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._product import product


class CooperativeMasks(nn.Module):
    """Spatial and channel masks from a student's and a teacher's feature map.

    Args:
        channels: C of the teacher's map, at least 2; queries and keys have C // 2.
        student_channels: C_s of the student's map.
        num_masks: M selection units (the paper: 6 for detection, 19 for Cityscapes).
        kv_pool: max-pools keys and values by this factor (2 as in CanKD), behind the projections; None
            attends to every position, which is exact and takes O(H W) memory all the same.
        detach_student_in_attention: cuts the student's gradient through the masks; the student then learns
            from the masked loss alone.
        units: another CooperativeMasks whose selection units are used here too: units shared by the levels
            of a pyramid. To share the projections as well, call one module for every level.

    Parameters: query.weight/bias [C // 2, C, 1, 1], key.* [C // 2, C_s, 1, 1], value.* [C, C_s, 1, 1],
    spatial_units [M, C], channel_units [M, 1]. The units start at N(0, 0.01), masks at about 0.5. key.bias
    has no effect on the masks (a softmax does not see shifts) and gets a gradient of zero.

    The masks train with the loss they weigh. To train them by their diversity alone, detach them there:
    KF.masked_mse(student, teacher, spatial=spatial.detach(), channel=channel.detach()).

    Raises TypeError or ValueError for bad options.
    """

    def __init__(
        self,
        channels: int,
        student_channels: int,
        num_masks: int,
        *,
        kv_pool: int | None = None,
        detach_student_in_attention: bool = False,
        units: CooperativeMasks | None = None,
    ) -> None:
        super().__init__()
        self.channels = _check.whole_number("channels", channels, 2)
        self.student_channels = _check.whole_number("student_channels", student_channels, 1)
        self.num_masks = _check.whole_number("num_masks", num_masks, 1)
        self.kv_pool = 1 if kv_pool is None else _check.whole_number("kv_pool", kv_pool, 1)
        self.detach_student_in_attention = _check.flag(
            "detach_student_in_attention", detach_student_in_attention
        )
        self.query = nn.Conv2d(channels, channels // 2, 1)
        self.key = nn.Conv2d(student_channels, channels // 2, 1)
        self.value = nn.Conv2d(student_channels, channels, 1)
        if units is None:
            self.spatial_units = nn.Parameter(torch.empty(num_masks, channels).normal_(0, 0.01))
            self.channel_units = nn.Parameter(torch.empty(num_masks, 1).normal_(0, 0.01))
        else:
            if not isinstance(units, CooperativeMasks):
                raise TypeError(f"units must be a CooperativeMasks, got {type(units).__name__}")
            if units.spatial_units.shape != (num_masks, channels):
                raise ValueError(
                    f"units must be [{num_masks}, {channels}] to be shared, got "
                    f"{tuple(units.spatial_units.shape)}"
                )
            self.spatial_units, self.channel_units = units.spatial_units, units.channel_units

    def extra_repr(self) -> str:
        pool = f", kv_pool={self.kv_pool}" if self.kv_pool > 1 else ""
        cut = ", detach_student_in_attention=True" if self.detach_student_in_attention else ""
        return f"{self.channels}, {self.student_channels}, {self.num_masks}{pool}{cut}"

    def forward(
        self, student: Tensor, teacher: Tensor, *, valid_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The masks.

        Args:
            student: [B, C_s, H, W], any float dtype and layout. Gets a gradient, unless detached.
            teacher: [B, C, H, W]; a constant.
            valid_mask: bool [B, H, W], True inside an image, False on its padding, which then neither
                attends nor is attended to and whose spatial masks are 0 (KF.masked_mse drops it). An image
                without a valid position has channel masks of 0.5.

        Returns:
            (spatial [B, M, H, W], channel [B, M, C]), each in (0, 1), float32 (float64 if an input is
            float64). bfloat16 and float16 maps on a GPU are projected in their dtype, other maps in the
            masks' dtype.

        Raises TypeError, ValueError or RuntimeError for bad input.
        """
        self._check_maps(student, teacher, valid_mask)
        with torch.autocast(student.device.type, enabled=False):
            query, key, student, allowed, attends = self._attention(student, teacher, valid_mask)
            value_weight, value_bias = self._weights(self.value, student.dtype)
            units = self.spatial_units.to(student.dtype)
            if self.kv_pool == 1:
                collapsed = product(units, value_weight.flatten(1))[..., None, None]
                value = F.conv2d(student, collapsed, product(units, value_bias.unsqueeze(1)).squeeze(1))
            else:  # a maximum does not commute with the units
                student = self._pool(F.conv2d(student, value_weight, value_bias), valid_mask)
                value = F.conv2d(student, units[..., None, None])
            logits, mean = KF.attention_masks(
                query.flatten(2), key.flatten(2), value.flatten(2), query_mask=attends, key_mask=allowed
            )
            descriptor = self._descriptor(student, mean, allowed)
            return self._masks(logits, descriptor, teacher, valid_mask)

    def fuse(self, student: Tensor, teacher: Tensor, *, valid_mask: Tensor | None = None) -> Tensor:
        """The fused feature map F [B, C, H, W] itself, for inspection: the slow path, with values C wide.

        masks(fuse(student, teacher)) equals forward(student, teacher). Arguments are forward's.
        """
        self._check_maps(student, teacher, valid_mask)
        with torch.autocast(student.device.type, enabled=False):
            query, key, student, allowed, attends = self._attention(student, teacher, valid_mask)
            value = self._pool(F.conv2d(student, *self._weights(self.value, student.dtype)), valid_mask)
            fused, _ = KF.attention_masks(
                query.flatten(2), key.flatten(2), value.flatten(2), query_mask=attends, key_mask=allowed
            )
            return fused.unflatten(2, teacher.shape[2:])

    def masks(self, fused: Tensor, *, valid_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The masks of a fused feature map [B, C, H, W]."""
        _check.floating("fused", fused)
        if fused.dim() != 4 or fused.size(1) != self.channels:
            raise ValueError(
                f"fused must be [batch, {self.channels}, height, width], got {tuple(fused.shape)}"
            )
        return KF.selection_masks(fused, self.spatial_units, self.channel_units, valid_mask=valid_mask)

    @staticmethod
    @torch.no_grad()
    def statistics(
        spatial: Tensor, channel: Tensor, *, valid_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What to log of the masks: their mean, smallest and largest value and their overlap, detached, 0-d.

        The masked losses are homogeneous in the masks, so masks may shrink towards 0 instead of the
        student's error; the means show it. Overlap is KF.dice_diversity(form="pairwise_mean"): 1 where all
        masks are one. Padding (valid_mask [B, H, W]) is left out.

        Raises TypeError, ValueError or RuntimeError for a valid_mask that does not fit.
        """
        if valid_mask is not None:
            _check_valid("spatial", spatial, valid_mask)
        found = {}
        for name, masks in (("spatial", spatial), ("channel", channel)):
            inside = torch.ones_like(masks, dtype=torch.bool)
            if name == "spatial" and valid_mask is not None:
                inside = valid_mask.unsqueeze(1).expand_as(masks)
            lowest, highest = (torch.cat([masks.new_full((1,), x), masks.flatten()]) for x in (1, 0))
            here = torch.cat([inside.new_zeros(1), inside.flatten()])  # never empty
            found[f"{name}_mean"] = torch.where(here, highest, 0).sum() / inside.sum().clamp(min=1)
            found[f"{name}_min"] = torch.where(here, lowest, 1).amin()
            found[f"{name}_max"] = torch.where(here, highest, 0).amax()
            found[f"{name}_overlap"] = KF.dice_diversity(masks, form="pairwise_mean")
        return found

    def _attention(self, student: Tensor, teacher: Tensor, valid_mask: Tensor | None):
        """Query, key and student in the products' dtype, then which keys are allowed and which queries
        attend.
        """
        dtype = _product_dtype(student, teacher)
        teacher = teacher.detach().to(dtype)
        student = (student.detach() if self.detach_student_in_attention else student).to(dtype)
        attends = allowed = None
        if valid_mask is not None:
            inside = valid_mask.unsqueeze(1)
            student, teacher = torch.where(inside, student, 0), torch.where(inside, teacher, 0)
            attends = valid_mask.flatten(1)
            allowed = (
                F.max_pool2d(inside.float(), self.kv_pool).flatten(1) > 0 if self.kv_pool > 1 else attends
            )
        query = F.conv2d(teacher, *self._weights(self.query, dtype))
        key = self._pool(F.conv2d(student, *self._weights(self.key, dtype)), valid_mask)
        return query, key, student, allowed, attends

    @staticmethod
    def _weights(projection: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return projection.weight.to(dtype), projection.bias.to(dtype)

    def _pool(self, x: Tensor, valid_mask: Tensor | None) -> Tensor:
        """The largest number of each window, over valid positions; 0 where none is."""
        if self.kv_pool == 1:
            return x
        if valid_mask is None:
            return F.max_pool2d(x, self.kv_pool)
        x = F.max_pool2d(torch.where(valid_mask.unsqueeze(1), x, -float("inf")), self.kv_pool)
        return torch.where(x == -float("inf"), 0, x)

    def _descriptor(self, student: Tensor, mean: Tensor, allowed: Tensor | None) -> Tensor:
        """The mean fused feature [B, C]: values under the map's column means. mean: [B, L]."""
        student = student.flatten(2).to(mean.dtype)
        pooled = product(student, mean.unsqueeze(2)).squeeze(2)
        if self.kv_pool > 1:  # `student` holds the pooled values already
            return pooled
        weight, bias = self._weights(self.value, mean.dtype)
        # The bias under the sum of the column means: 1, or 0 where nothing attends.
        return product(pooled, weight.flatten(1).T) + mean.sum(1, keepdim=True) * bias

    def _masks(
        self, logits: Tensor, descriptor: Tensor, like: Tensor, valid_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        spatial = logits.sigmoid().unflatten(2, like.shape[2:])
        if valid_mask is not None:
            spatial = torch.where(valid_mask.unsqueeze(1), spatial, 0)
        return spatial, (self.channel_units.to(descriptor.dtype) * descriptor.unsqueeze(1)).sigmoid()

    def _check_maps(self, student: object, teacher: object, valid_mask: object) -> None:
        wanted = (("student", student, self.student_channels), ("teacher", teacher, self.channels))
        for name, x, channels in wanted:
            _check.floating(name, x)
            if x.dim() != 4 or x.size(1) != channels:
                raise ValueError(f"{name} must be [batch, {channels}, height, width], got {tuple(x.shape)}")
        if student.shape[2:] != teacher.shape[2:] or student.size(0) != teacher.size(0):
            raise ValueError(
                f"student and teacher must have the same batch, height and width, got {tuple(student.shape)} "
                f"and {tuple(teacher.shape)}"
            )
        if min(student.shape[2:]) < self.kv_pool:
            raise ValueError(
                f"student must be at least {self.kv_pool} high and wide, got shape {tuple(student.shape)}"
            )
        _check.same_device("teacher", teacher, "student", student)
        _check.same_device("query.weight", self.query.weight, "student", student)
        if valid_mask is not None:
            _check_valid("student", student, valid_mask)


def _check_valid(name: str, x: Tensor, valid_mask: object) -> None:
    size = (x.size(0), *x.shape[2:])
    _check_features.position_mask("valid_mask", valid_mask, size, name, x, "[batch, height, width]")


def _product_dtype(student: Tensor, teacher: Tensor) -> torch.dtype:
    """bfloat16 or float16 where both maps have it and a GPU multiplies it; else float32, or float64."""
    if (
        student.dtype == teacher.dtype
        and student.is_cuda
        and student.dtype in (torch.bfloat16, torch.float16)
    ):
        return student.dtype
    return compute_type(student, teacher)
