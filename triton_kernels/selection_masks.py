"""selection_masks on tensor cores: masks of a tile of positions, the map's gradient, and the units' gradient
by parts of the positions. The equations are in csrc/selection_masks.h.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_tiles import load_tile, product, valid
from .common import INTERPRETED, NUMBER, compute_type, rounded
from .launch import launch
from .library import define

TILE, CHANNELS, PARTS = 64, 64, 8


@triton.jit
def selection_forward_kernel(
    fused,
    fb,
    fp,
    fc,
    units,
    mask,
    spatial,
    positions,
    channels,
    masks,
    HAS_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PB: tl.constexpr,
    CB: tl.constexpr,
    MB: tl.constexpr,
):
    """spatial [B, M, P]: sigmoid of positions times units."""
    tiles = (positions + PB - 1) // PB
    pid = tl.program_id(0).to(tl.int64)
    b = pid // tiles
    p = pid % tiles * PB + tl.arange(0, PB).to(tl.int64)
    there = valid(mask + b * positions, p, positions, HAS_MASK)
    map, weight = (fused + b * fb, fp, fc), (units, channels, 1)
    for first in range(0, masks, MB):
        m = first + tl.arange(0, MB).to(tl.int64)
        x = product(map, p, there, weight, m, m < masks, channels, TYPE, OPERAND, "ieee", CB, False)
        e = tl.exp(-tl.abs(x))
        s = tl.where(there[:, None], tl.where(x < 0, e, 1) / (1 + e), 0)
        at = spatial + (b * masks + m[None, :]) * positions + p[:, None]
        tl.store(at, s, mask=(p < positions)[:, None] & (m < masks)[None, :])


@triton.jit
def selection_map_grad_kernel(
    grad,
    gb,
    gp,
    gc,
    units,
    mask,
    slope,
    grad_mean,
    share,
    positions,
    channels,
    masks,
    HAS_MASK: tl.constexpr,
    TYPE: tl.constexpr,
    PB: tl.constexpr,
    CB: tl.constexpr,
    MB: tl.constexpr,
):
    """The map's gradient: positions times channels, summed over the units. slope: g [B, M, P]."""
    tiles, across = (positions + PB - 1) // PB, (channels + CB - 1) // CB
    pid = tl.program_id(0).to(tl.int64)
    b = pid // across // tiles
    p = pid // across % tiles * PB + tl.arange(0, PB).to(tl.int64)
    c = pid % across * CB + tl.arange(0, CB).to(tl.int64)
    there = valid(mask + b * positions, p, positions, HAS_MASK)
    up, weight = (slope + b * masks * positions, 1, positions), (units, 1, channels)
    sums = product(up, p, there, weight, c, c < channels, masks, TYPE, TYPE, "ieee", MB, False)
    mean = tl.load(grad_mean + b * channels + c, mask=c < channels, other=0) * tl.load(share + b)
    sums = tl.where(there[:, None], sums + mean[None, :], 0)
    at = grad + b * gb + p[:, None] * gp + c[None, :] * gc
    stored = rounded(sums, at.dtype.element_ty)
    tl.store(at, stored, mask=(p < positions)[:, None] & (c < channels)[None, :])


@triton.jit
def selection_sums_kernel(
    fused,
    fb,
    fp,
    fc,
    mask,
    slope,
    sums,
    unit_sums,
    positions,
    channels,
    masks,
    parts,
    HAS_MASK: tl.constexpr,
    UNITS: tl.constexpr,
    TYPE: tl.constexpr,
    PB: tl.constexpr,
    CB: tl.constexpr,
    MB: tl.constexpr,
):
    """Sums over a part of an image's positions: of the map [B, parts, C], or (UNITS) of g times the map
    [B, parts, M, C].
    """
    across = (channels + CB - 1) // CB
    pid = tl.program_id(0).to(tl.int64)
    part, c = pid // across, pid % across * CB + tl.arange(0, CB).to(tl.int64)
    b = part // parts
    length = (positions + parts - 1) // parts
    begin = part % parts * length
    end = tl.minimum(begin + length, positions)
    map, up = (fused + b * fb, fp, fc), (slope + b * masks * positions, 1, positions)
    for first_mask in range(0, masks if UNITS else 1, MB):
        m = first_mask + tl.arange(0, MB).to(tl.int64)
        total, of_units = tl.zeros((CB,), TYPE), tl.zeros((MB, CB), TYPE)
        for first in range(begin, end, PB):
            p = first + tl.arange(0, PB).to(tl.int64)
            there = (p < end) & valid(mask + b * positions, p, positions, HAS_MASK)
            x = load_tile(map, p, c, channels, there, False, TYPE)
            if UNITS:
                g = load_tile(up, p, m, masks, there, True, TYPE)
                of_units += tl.dot(g, x, input_precision="ieee", out_dtype=TYPE)
            else:
                total += tl.sum(x, 0)
        if UNITS:
            at = unit_sums + (part * masks + m[:, None]) * channels + c[None, :]
            tl.store(at, of_units, mask=(m < masks)[:, None] & (c < channels)[None, :])
        else:
            tl.store(sums + part * channels + c, total, mask=c < channels)


def _constants(fused: Tensor, valid_mask: Tensor | None, masks: int) -> dict:
    compute = compute_type(fused)
    return {
        "HAS_MASK": valid_mask is not None,
        "TYPE": NUMBER[compute],
        "PB": TILE,
        "CB": CHANNELS,
        "MB": max(16, min(64, triton.next_power_of_2(masks))),
        "num_warps": 4,
    }


def _map(x: Tensor) -> tuple:
    return x, x.stride(0), x.stride(2), x.stride(1)


def _sum_parts(fused, flags, slope, units, parts, masks, constants):
    """Launches selection_sums_kernel; slope None asks for the map's own sums."""
    batch, channels, positions = fused.shape
    blocks = batch * PARTS * triton.cdiv(channels, CHANNELS)
    pointer = parts if slope is None else slope
    arguments = (*_map(fused), flags, pointer, parts, parts, positions, channels, masks, PARTS)
    launch(selection_sums_kernel, blocks, arguments, UNITS=slope is not None, **constants)


def selection_masks(
    fused: Tensor, units: Tensor, valid: Tensor | None, share: Tensor
) -> tuple[Tensor, Tensor]:
    """Spatial masks [B, M, P] and the map's mean [B, C]."""
    batch, channels, positions = fused.shape
    masks, new = units.size(0), {"dtype": units.dtype}
    constants = _constants(fused, valid, masks)
    spatial = fused.new_empty((batch, masks, positions), **new)
    flags = spatial if valid is None else valid.view(torch.uint8)
    arguments = (*_map(fused), units, flags, spatial, positions, channels, masks)
    half = fused.dtype in (torch.bfloat16, torch.float16) and not INTERPRETED.value
    operand = NUMBER[fused.dtype] if half else constants["TYPE"]
    blocks = batch * triton.cdiv(positions, TILE)
    launch(selection_forward_kernel, blocks, arguments, OPERAND=operand, **constants)
    parts = fused.new_empty((batch, PARTS, channels), **new)
    _sum_parts(fused, flags, None, units, parts, masks, constants)
    return spatial, parts.sum(1) * share.unsqueeze(1)


def selection_masks_backward(
    grad_spatial: Tensor,
    grad_mean: Tensor,
    spatial: Tensor,
    fused: Tensor,
    units: Tensor,
    valid: Tensor | None,
    share: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of map and units."""
    batch, channels, positions = fused.shape
    masks = units.size(0)
    constants = _constants(fused, valid, masks)
    slope = torch.where(spatial == 0, 0, grad_spatial * spatial * (1 - spatial))
    flags = spatial if valid is None else valid.view(torch.uint8)
    grad = torch.empty_like(fused)
    arguments = (*_map(grad), units, flags, slope, grad_mean, share, positions, channels, masks)
    blocks = batch * triton.cdiv(positions, TILE) * triton.cdiv(channels, CHANNELS)
    launch(selection_map_grad_kernel, blocks, arguments, **constants)
    parts = fused.new_empty((batch, PARTS, masks, channels), dtype=units.dtype)
    _sum_parts(fused, flags, slope, units, parts, masks, constants)
    return grad, parts.sum((0, 1))


def _fake(fused, units, valid, share):
    batch, channels, positions = fused.shape
    spatial = units.new_empty((batch, units.size(0), positions))
    return spatial, units.new_empty((batch, channels))


_INPUTS = "Tensor fused, Tensor units, Tensor? valid, Tensor share"
define(f"selection_masks({_INPUTS}) -> (Tensor, Tensor)", selection_masks, _fake)
define(
    f"selection_masks_backward(Tensor grad_spatial, Tensor grad_mean, Tensor spatial, {_INPUTS}) "
    "-> (Tensor, Tensor)",
    selection_masks_backward,
    lambda up, up_mean, spatial, fused, units, *_: (torch.empty_like(fused), torch.empty_like(units)),
)
