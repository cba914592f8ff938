"""attention_masks on tensor cores: what starts the kernels, and the ops."""

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from .attention_masks_kernels import (
    forward_kernel,
    key_grad_kernel,
    mean_kernel,
    query_grad_kernel,
    row_sums_kernel,
)
from .common import INTERPRETED, NUMBER, compute_type
from .launch import launch
from .library import define

MOST_CHANNELS, MOST_MASKS = 128, 64  # of a tile; more are taken in turns


class Plan(NamedTuple):
    """Sizes and constants of a call."""

    sizes: tuple[int, int, int, int]  # queries, keys, width, masks
    batch: int
    compute: torch.dtype
    constants: dict
    query_tile: int
    key_tile: int
    channel_tile: int
    mask_tile: int
    once: bool
    once_masks: bool


def view(x: Tensor) -> tuple:
    """A tensor [B, channels, positions] for a kernel: memory, batch, position and channel stride."""
    return x, x.stride(0), x.stride(2), x.stride(1)


def _power(n: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(n)))


def plan_of(query: Tensor, key: Tensor, value: Tensor, query_mask, key_mask) -> Plan:
    """Half types multiply as they are where all three share one; else float32 (float64 for such queries)."""
    batch, width, queries = query.shape
    keys, masks = key.size(2), value.size(1)
    compute = compute_type(query)
    same = query.dtype == key.dtype == value.dtype and query.dtype in (torch.bfloat16, torch.float16)
    # The interpreter's tl.dot multiplies bfloat16's bits as integers.
    operand = compute if INTERPRETED.value or not same else query.dtype
    tf32 = torch.backends.cuda.matmul.allow_tf32 and operand == torch.float32
    tile = 64 if same else 32 if compute == torch.float32 else 16
    constants = {
        "HAS_QUERY_MASK": query_mask is not None,
        "HAS_KEY_MASK": key_mask is not None,
        "TYPE": NUMBER[compute],
        "OPERAND": NUMBER[operand],
        "PRECISION": "tf32" if tf32 else "ieee",
    }
    return Plan(
        (queries, keys, width, masks),
        batch,
        compute,
        constants,
        2 * tile if same else tile,
        tile,
        _power(width, MOST_CHANNELS),
        _power(masks, MOST_MASKS),
        width <= MOST_CHANNELS,
        masks <= MOST_MASKS,
    )


def _or(mask: Tensor | None, otherwise: Tensor) -> Tensor:
    """A mask as bytes, or a pointer that is not followed."""
    return otherwise if mask is None else mask.view(torch.uint8)


def _share(plan: Plan, share: Tensor | None, like: Tensor) -> Tensor:
    if share is not None:
        return share
    return like.new_full((plan.batch,), 1 / plan.sizes[0], dtype=plan.compute)


def attention_masks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    query_mask: Tensor | None,
    share: Tensor | None,
    key_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, M, N], mean [B, L] and lse [B, N]."""
    plan = plan_of(query, key, value, query_mask, key_mask)
    queries, keys, _, masks = plan.sizes
    new = {"dtype": plan.compute}
    out = query.new_empty((plan.batch, masks, queries), **new)
    mean, lse = query.new_empty((plan.batch, keys), **new), query.new_empty((plan.batch, queries), **new)
    shared = plan.constants | {"DB": plan.channel_tile, "ONCE": plan.once, "num_warps": 4, "num_stages": 2}
    flags = _or(query_mask, lse), _or(key_mask, lse)
    chunks = triton.cdiv(masks, plan.mask_tile)
    launch(
        forward_kernel,
        plan.batch * triton.cdiv(queries, plan.query_tile) * chunks,
        (view(query), view(key), view(value), *flags, out, lse, plan.sizes, scale, chunks),
        QB=plan.query_tile,
        KB=plan.key_tile,
        MB=plan.mask_tile,
        **shared,
    )
    launch(
        mean_kernel,
        plan.batch * triton.cdiv(keys, plan.key_tile),
        (view(query), view(key), *flags, lse, _share(plan, share, query), mean, plan.sizes, scale),
        QB=plan.key_tile,
        KB=plan.key_tile,
        **shared,
    )
    return out, mean, lse


def attention_masks_backward(
    grad_out: Tensor,
    grad_mean: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    query_mask: Tensor | None,
    share: Tensor | None,
    key_mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and value."""
    plan = plan_of(query, key, value, query_mask, key_mask)
    queries, keys, width, masks = plan.sizes
    grads = tuple(torch.empty_like(x) for x in (query, key, value))
    d, share = torch.empty_like(lse), _share(plan, share, query)
    tile = plan.key_tile
    shared = plan.constants | {"QB": tile, "KB": tile, "DB": plan.channel_tile, "MB": plan.mask_tile}
    shared |= {"ONCE": plan.once, "num_warps": 8, "num_stages": 2}
    inputs, flags = (view(query), view(key)), (_or(query_mask, lse), _or(key_mask, lse))
    tail = (plan.sizes, scale)
    launch(
        row_sums_kernel,
        plan.batch * triton.cdiv(queries, tile),
        (*inputs, *flags, out, lse, grad_out, grad_mean, share, d, *tail),
        **shared,
    )
    given = (*inputs, view(value), *flags, lse, d, view(grad_out), grad_mean, share)
    chunks = triton.cdiv(width, plan.channel_tile)
    launch(
        query_grad_kernel,
        plan.batch * triton.cdiv(queries, tile) * chunks,
        (*given, view(grads[0]), *tail, chunks),
        ONCE_MASKS=plan.once_masks,
        **shared,
    )
    chunks = max(chunks, triton.cdiv(masks, plan.mask_tile))
    launch(
        key_grad_kernel,
        plan.batch * triton.cdiv(keys, tile) * chunks,
        (*given, view(grads[1]), view(grads[2]), *tail, chunks),
        ONCE_MASKS=plan.once_masks,
        **shared,
    )
    return grads


def _fake(query, key, value, *_):
    new = {"dtype": compute_type(query)}
    batch, queries = query.size(0), query.size(2)
    sizes = ((batch, value.size(1), queries), (batch, key.size(2)), (batch, queries))
    return tuple(query.new_empty(size, **new) for size in sizes)


_INPUTS = "Tensor query, Tensor key, Tensor value, float scale, Tensor? query_mask, Tensor? share, "
define(
    f"attention_masks({_INPUTS}Tensor? key_mask) -> (Tensor, Tensor, Tensor)",
    attention_masks,
    _fake,
)
define(
    "attention_masks_backward(Tensor grad_out, Tensor grad_mean, Tensor out, Tensor lse, "
    f"{_INPUTS}Tensor? key_mask) -> (Tensor, Tensor, Tensor)",
    attention_masks_backward,
    lambda grad_out, grad_mean, out, lse, *inputs: tuple(torch.empty_like(x) for x in inputs[:3]),
)
