"""Softmax cross-attention between feature maps or tokens, with heads, a free scale and positional embeddings:
torch's scaled_dot_product_attention, and around it what it lacks (maps without copies, rows with nothing to
attend to).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._product import product


def cross_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int = 1,
    scale: float | None = None,
    query_position: Tensor | None = None,
    key_position: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """The definition, with the map [B, heads, N, L] in memory."""
    q, k, v = _heads(query, key, value, num_heads, query_position, key_position, key_mask)
    logits = (q.size(-1) ** -0.5 if scale is None else scale) * product(q, k.mT)
    if key_mask is None:
        return _like(query, product(logits.softmax(-1), v))
    allowed, some = key_mask[:, None, None], key_mask.any(1)[:, None, None, None]
    logits = torch.where(allowed | ~some, logits, -float("inf"))
    return _like(query, product(torch.where(some, logits.softmax(-1), 0), v))


def cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    num_heads: int = 1,
    scale: float | None = None,
    query_position: Tensor | None = None,
    key_position: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Tensor:
    """softmax(scale (q + its position) . (k + its position)) v, head by head.

    Args:
        query: tokens [B, N, C], or a map [B, C, H, W] with N = H W; any float dtype and strides.
        key: tokens [B, L, C] or a map [B, C, h, w]; need not be of the query's kind or size.
        value: like key, of any number of channels C_v. All three get gradients, positions too.
        num_heads: divides C and C_v.
        scale: of the logits; (C / heads) ** -0.5 by default.
        query_position, key_position: added to query and key; of their shape but for the batch, which may
            be 1.
        key_mask: bool [B, L], True for a token that is attended to (L = h w of a map); an image without any
            gives 0, and NaN in dropped tokens is harmless.

    Returns:
        Tokens [B, N, C_v] or a map [B, C_v, H, W], as query is; float32 (float64 if an input is float64).
        On GPUs products take bfloat16 and float16 as they are, on CPUs as float32.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_inputs(query, key, value, num_heads)
    _check_position("query_position", query_position, query)
    _check_position("key_position", key_position, key)
    if scale is not None:
        scale = _check.positive("scale", scale)
    if key_mask is not None:
        positions = key.size(1) if key.dim() == 3 else key.size(2) * key.size(3)
        _check_features.position_mask("key_mask", key_mask, (query.size(0), positions), "query", query)
    q, k, v = _heads(query, key, value, num_heads, query_position, key_position, key_mask)
    halves = q.is_cuda and {x.dtype for x in (query, key, value)} in ({torch.bfloat16}, {torch.float16})
    if halves:
        q, k, v = (x.to(query.dtype) for x in (q, k, v))
    some = None if key_mask is None else key_mask.any(1)[:, None, None, None]
    allowed = None if key_mask is None else key_mask[:, None, None] | ~some
    out = _attend(q, k, v, allowed, scale)
    return _like(query, out if some is None else torch.where(some, out, 0))


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float | None) -> Tensor:
    """Torch's fused attention, whose backward pass is one op. Where the CPU has none, it would be plain
    products under whatever autocast is on then: there they are written out."""
    if not q.is_cuda and q.size(-1) != v.size(-1):
        logits = (q.size(-1) ** -0.5 if scale is None else scale) * product(q, k.mT)
        if allowed is not None:
            logits = torch.where(allowed, logits, -float("inf"))
        return product(logits.softmax(-1), v)
    if not q.is_cuda:
        # The fused one takes no other strides of the last dimension.
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    with torch.autocast(q.device.type, enabled=False):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=scale)


def _heads(query, key, value, num_heads, query_position, key_position, key_mask):
    """Tokens of heads [B, heads, L, C / heads], float32 (float64 if an input is), positions added."""
    compute = compute_type(query, key, value)

    def split(x: Tensor, position: Tensor | None) -> Tensor:
        x = x.to(compute)
        if position is not None:
            x = x + position.to(compute)
        if x.dim() == 4:
            x = x.flatten(2).mT
        return x.unflatten(2, (num_heads, x.size(2) // num_heads)).transpose(1, 2)

    q, k, v = split(query, query_position), split(key, key_position), split(value, None)
    if key_mask is not None:  # by selection: what a dropped token holds is harmless
        allowed = key_mask[:, None, :, None]
        k, v = torch.where(allowed, k, 0), torch.where(allowed, v, 0)
    return q, k, v


def _like(query: Tensor, out: Tensor) -> Tensor:
    """[B, heads, N, C] as tokens or as a map, whichever the query is; float32 or float64."""
    out = out if out.dtype == torch.float64 else out.float()
    tokens = out.transpose(1, 2).flatten(2)
    return tokens if query.dim() == 3 else tokens.mT.unflatten(2, query.shape[2:])


def _check_inputs(query: object, key: object, value: object, num_heads: object) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        _check.floating(name, x)
        if x.dim() not in (3, 4):
            raise ValueError(
                f"{name} must be tokens [batch, length, channels] or a map [batch, channels, height, width], "
                f"got shape {tuple(x.shape)}"
            )
        if 0 in x.shape[1:]:
            raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")
    heads = _check.whole_number("num_heads", num_heads, 1)
    if key.size(0) != query.size(0) or _channels(key) != _channels(query):
        raise ValueError(
            f"key must have the query's batch and channels, got {tuple(key.shape)} and {tuple(query.shape)}"
        )
    axis = 2 if key.dim() == 3 else 1
    if value.dim() != key.dim() or [s for d, s in enumerate(value.shape) if d != axis] != [
        s for d, s in enumerate(key.shape) if d != axis
    ]:
        raise ValueError(
            f"value must be like key but for its channels, got {tuple(value.shape)} and {tuple(key.shape)}"
        )
    for name, x in (("query", query), ("value", value)):
        if _channels(x) % heads:
            raise ValueError(f"num_heads must divide {name}'s {_channels(x)} channels, got {heads}")
    for name, x in (("key", key), ("value", value)):
        _check.same_device(name, x, "query", query)


def _channels(x: Tensor) -> int:
    return x.size(2) if x.dim() == 3 else x.size(1)


def _check_position(name: str, position: object, x: Tensor) -> None:
    if position is None:
        return
    _check.floating(name, position)
    wanted = tuple(x.shape)
    if tuple(position.shape) not in (wanted, (1, *wanted[1:])):
        raise ValueError(
            f"{name} must have shape {wanted} or {(1, *wanted[1:])}, got {tuple(position.shape)}"
        )
    _check.same_device(name, position, "query", x)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 6, 8), make(2, 8, 3, 4), make(2, 12, 3, 4)], {"num_heads": 2}
