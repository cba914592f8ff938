"""ACAM-KD's loss with every tensor of the paper in memory: what `method` is measured and tested against.

    A [B, N, N] by a softmax, F_fused [B, C, N], the masked differences [B, M, C, H, W], all pairs of masks

`materialised` is that, in the style of the closest published code (MasKD); `through_sums` is the best plain
PyTorch that we know: scaled_dot_product_attention, and the masked losses through their sums over channels and
over positions. Both take an ACAMLevel, whose parameters they use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.recipes.acam_kd.level import ACAMLevel


def materialised(level: ACAMLevel, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(L^s, L^c, L_div) of one level with default options; maps as for ACAMLevel."""
    query, key, value = _projected(level, student, teacher)
    a = (query.mT @ key / query.size(1) ** 0.5).softmax(2)  # [B, N, N]
    fused = value @ a.mT  # [B, C, N]
    spatial, channel = _masks(level, fused, teacher)
    d = (teacher - level.align(student)).unsqueeze(1)  # [B, 1, C, H, W]
    wide, deep = spatial.unsqueeze(2), channel[..., None, None]
    size = teacher.size(2) * teacher.size(3)
    by_position = ((d * wide) ** 2).sum((2, 3, 4)) / (d.size(2) * wide.sum((2, 3, 4)) + level.eps)
    by_channel = ((d * deep) ** 2).sum((2, 3, 4)) / (size * deep.sum((2, 3, 4)) + level.eps)
    return by_position.mean(), by_channel.mean(), _pairs(spatial.flatten(2)) + _pairs(channel)


def through_sums(level: ACAMLevel, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same numbers, without the tensors that can be avoided in plain PyTorch."""
    query, key, value = (x.mT.unsqueeze(1) for x in _projected(level, student, teacher))
    fused = F.scaled_dot_product_attention(query, key, value)[:, 0].mT
    spatial, channel = _masks(level, fused, teacher)
    square = (teacher - level.align(student)).square()
    e, g = square.sum(1).unsqueeze(1), square.sum((2, 3)).unsqueeze(1)  # [B, 1, H, W], [B, 1, C]
    size = teacher.size(2) * teacher.size(3)
    by_position = (spatial.square() * e).sum((2, 3)) / (teacher.size(1) * spatial.sum((2, 3)) + level.eps)
    by_channel = (channel.square() * g).sum(2) / (size * channel.sum(2) + level.eps)
    overlap = _columns(spatial.flatten(2)) + _columns(channel)
    return by_position.mean(), by_channel.mean(), overlap


def _projected(level: ACAMLevel, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a = level.attention
    return a.query(teacher).flatten(2), a.key(student).flatten(2), a.value(student).flatten(2)


def _masks(level: ACAMLevel, fused: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    a = level.attention
    spatial = (a.spatial_units @ fused).sigmoid().unflatten(2, teacher.shape[2:])
    return spatial, (a.channel_units * fused.mean(2).unsqueeze(1)).sigmoid()


def _pairs(masks: Tensor) -> Tensor:
    """2 sum_{i != j} M_i . M_j over sum_{i, j} (|M_i|^2 + |M_j|^2) / M, pair by pair."""
    count = masks.size(1)
    products = (masks.unsqueeze(1) * masks.unsqueeze(2)).sum(3)  # [B, M, M] of [B, M, M, n]
    other = ~torch.eye(count, dtype=torch.bool, device=masks.device)
    return ((products * other).sum((1, 2)) / masks.square().sum((1, 2))).mean()


def _columns(masks: Tensor) -> Tensor:
    """The same through the sum of all masks."""
    mass = masks.square().sum((1, 2))
    return ((masks.sum(1).square().sum(1) - mass) / mass).mean()
