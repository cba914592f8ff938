"""Masks from a feature map by learned selection units: the mask generation (ASCM) of ACAM-KD (Lan & Tian,
ICCV 2025, arXiv 2503.06307).

    spatial_m = sigmoid(m^s_m . f),   channel_m = sigmoid(m^c_m mean_p f_p)
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable


def selection_masks_reference(
    fused: Tensor,
    spatial_units: Tensor,
    channel_units: Tensor,
    *,
    valid_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition."""
    compute = compute_type(fused)
    flat = fused.flatten(2).to(compute)  # [B, C, P]
    inside = None if valid_mask is None else valid_mask.flatten(1).unsqueeze(1)
    if inside is not None:  # by selection: what padding holds is harmless
        flat = torch.where(inside, flat, 0)
    with torch.autocast(fused.device.type, enabled=False):
        spatial = (spatial_units.to(compute) @ flat).sigmoid()
        spatial = spatial if inside is None else torch.where(inside, spatial, 0)
        mean = flat.sum(2) * _share(flat, valid_mask).unsqueeze(1)
        return spatial.unflatten(2, fused.shape[2:]), _channel_masks(mean, channel_units)


def _share(flat: Tensor, valid_mask: Tensor | None) -> Tensor:
    """1 / the number of valid positions of each image [B], in the compute type."""
    compute = compute_type(flat)
    if valid_mask is None:
        return torch.full((flat.size(0),), 1 / flat.size(2), dtype=compute, device=flat.device)
    return valid_mask.flatten(1).sum(1).clamp(min=1).to(compute).reciprocal()


def _channel_masks(mean: Tensor, channel_units: Tensor) -> Tensor:
    return (channel_units.to(mean.dtype) * mean.unsqueeze(1)).sigmoid()


class SelectionMasks(Function):
    """The ops selection_masks and selection_masks_backward of a backend: spatial masks and the map's mean."""

    generate_vmap_rule = True

    @staticmethod
    def forward(fused, units, valid, share, kernels):
        return backend.ops(kernels).selection_masks(fused, units, valid, share)

    @staticmethod
    def setup_context(ctx, inputs, output):
        fused, units, valid, share, ctx.kernels = inputs
        ctx.name = "selection_masks"
        ctx.save_for_backward(output[0], fused, units, valid, share)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_spatial, grad_mean):
        op = backend.ops(ctx.kernels).selection_masks_backward
        grads = op(grad_spatial.contiguous(), grad_mean.contiguous(), *ctx.saved_tensors)
        return *grads, None, None, None


def selection_masks(
    fused: Tensor,
    spatial_units: Tensor,
    channel_units: Tensor,
    *,
    valid_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Spatial and channel masks of a feature map.

    Args:
        fused: [B, C, H, W], or [B, C, ...] of any positions; any float dtype and strides.
        spatial_units: [M, C].
        channel_units: [M, 1]. All three get gradients.
        valid_mask: bool [B, H, W] (like fused without its channels), True for a valid position. Others have
            spatial masks of 0, are left out of the mean, and may hold NaN.

    Returns:
        (spatial [B, M, H, W], channel [B, M, C]), float32 (float64 if fused is float64).

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_inputs(fused, spatial_units, channel_units, valid_mask)
    kernels = backend.of(fused, "selection_masks")
    if kernels == "reference":
        return selection_masks_reference(fused, spatial_units, channel_units, valid_mask=valid_mask)
    with torch.autocast(fused.device.type, enabled=False):
        flat, share = fused.flatten(2), _share(fused.flatten(2), valid_mask)
        valid = None if valid_mask is None else valid_mask.flatten(1).contiguous()
        units = spatial_units.to(compute_type(fused)).contiguous()
        spatial, mean = SelectionMasks.apply(flat, units, valid, share, kernels)
        return spatial.unflatten(2, fused.shape[2:]), _channel_masks(mean, channel_units)


def _check_inputs(fused: object, spatial_units: object, channel_units: object, valid_mask: object) -> None:
    for name, x in (("fused", fused), ("spatial_units", spatial_units), ("channel_units", channel_units)):
        _check.floating(name, x)
    if fused.dim() < 3 or 0 in fused.shape[1:]:
        raise ValueError(
            f"fused must be [batch, channels, height, width], not empty, got shape {tuple(fused.shape)}"
        )
    channels = fused.size(1)
    if spatial_units.dim() != 2 or spatial_units.size(1) != channels or spatial_units.size(0) < 1:
        raise ValueError(
            f"spatial_units must be [masks, {channels}], at least one mask, got {tuple(spatial_units.shape)}"
        )
    _check_features.shape("channel_units", channel_units, (spatial_units.size(0), 1), "[masks, 1]")
    for name, x in (("spatial_units", spatial_units), ("channel_units", channel_units)):
        _check.same_device(name, x, "fused", fused)
    if valid_mask is not None:
        size = (fused.size(0), *fused.shape[2:])
        meaning = "like fused without its channels"
        _check_features.position_mask("valid_mask", valid_mask, size, "fused", fused, meaning)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 9, 5, 7), make(4, 9), make(4, 1)], {}


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(fused, units, valid, share):
    new = {"dtype": compute_type(fused)}
    batch, channels, positions = fused.shape
    spatial = fused.new_empty((batch, units.size(0), positions), **new)
    return spatial, fused.new_empty((batch, channels), **new)


register_fake("selection_masks", _fake)
register_fake(
    "selection_masks_backward",
    lambda up, up_mean, spatial, fused, units, *_: (torch.empty_like(fused), torch.empty_like(units)),
)
