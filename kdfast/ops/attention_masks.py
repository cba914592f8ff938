"""Cross-attention whose values are a few mask logits a position, and the mean of its map over the queries:
what the mask generation of ACAM-KD (Lan & Tian, ICCV 2025, arXiv 2503.06307) needs of its fused feature map.

    A_ij = softmax_j(scale q_i . k_j),   out_mi = sum_j A_ij value_mj,   mean_j = 1/N sum_i A_ij

The masks see the fused map F_i = sum_j A_ij V_j only through m_s . F_i and through its mean over i. Both are
linear in V, so m_s goes in front of the sum (value = m_s V, M rows instead of C) and the mean over i into the
map. No array of N x L numbers exists but in pieces on chip.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._again import made_again
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable

CHUNK = 1 << 22  # elements of A that the definition holds at once


def attention_masks_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, with the map A [B, N, L] in memory."""
    compute = compute_type(query)
    scale = query.size(1) ** -0.5 if scale is None else scale
    query, key, value = (x.to(compute) for x in (query, key, value))
    attends = query.new_ones(query.size(0), query.size(2), dtype=torch.bool)
    if query_mask is not None:
        attends, query = query_mask, torch.where(query_mask.unsqueeze(1), query, 0)
    allowed = key.new_ones(key.size(0), 1, key.size(2), dtype=torch.bool)
    if key_mask is not None:  # by selection: what a dropped position holds is harmless
        allowed = key_mask.unsqueeze(1)
        key, value = torch.where(allowed, key, 0), torch.where(allowed, value, 0)
    some = allowed.any(2, keepdim=True)  # a softmax over nothing is a row of zeros
    with torch.autocast(query.device.type, enabled=False):
        logits = torch.where(allowed | ~some, scale * (query.mT @ key), -float("inf"))
        a = torch.where(attends.unsqueeze(2) & some, logits.softmax(2), 0)
        return value @ a.mT, a.sum(1) / attends.sum(1, keepdim=True).clamp(min=1)


def attention_masks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax cross-attention of narrow values, and the attention map's mean over the queries.

    Args:
        query: [B, d, N], any float dtype and strides; a feature map's view is `x.flatten(2)`.
        key: [B, d, L].
        value: [B, M, L]. All three get gradients, through both results.
        scale: of the logits; d ** -0.5 by default.
        query_mask: bool [B, N], True for a position that attends; another one's row of A is 0, it is not
            counted in the mean.
        key_mask: bool [B, L], True for a position that is attended to. An image without any has A = 0.
            NaN in dropped positions is harmless.

    Returns:
        (out [B, M, N], mean [B, L]): out[b, m, i] = sum_j A_ij value[b, m, j], and the mean of A_ij over the
        queries that attend; float32 (float64 if query is float64).

    Memory is O(N + L): A is made again in the backward pass.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    scale = check_attention(query, key, value, scale, query_mask, key_mask)
    kernels = backend.of(query, "attention_masks")
    if kernels == "reference":
        return _in_chunks(query, key, value, scale, query_mask, key_mask)
    share = None
    if query_mask is not None:
        share = query_mask.sum(1).clamp(min=1).to(compute_type(query)).reciprocal()
        query_mask = query_mask.contiguous()
    if key_mask is not None:
        key_mask = key_mask.contiguous()
    out, mean, _ = AttentionMasks.apply(query, key, value, scale, query_mask, share, key_mask, kernels)
    return out, mean


class AttentionMasks(Function):
    """The ops attention_masks and attention_masks_backward of a backend.

    Besides the results the forward pass keeps the log-sum-exp of every row, +inf for a row of A that is 0;
    share is 1 over the number of queries that attend.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(query, key, value, scale, query_mask, share, key_mask, kernels):
        return backend.ops(kernels).attention_masks(query, key, value, scale, query_mask, share, key_mask)

    @staticmethod
    def setup_context(ctx, inputs, output):
        query, key, value, ctx.scale, query_mask, share, key_mask, ctx.kernels = inputs
        out, _, lse = output
        ctx.mark_non_differentiable(lse)
        ctx.name = "attention_masks"
        ctx.save_for_backward(out, lse, query, key, value, query_mask, share, key_mask)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_mean, _):
        out, lse, query, key, value, *masks = ctx.saved_tensors
        op = backend.ops(ctx.kernels).attention_masks_backward
        grads = op(
            grad_out.contiguous(), grad_mean.contiguous(), out, lse, query, key, value, ctx.scale, *masks
        )
        return *grads, None, None, None, None, None


def check_attention(
    query: object,
    key: object,
    value: object,
    scale: object,
    query_mask: object,
    key_mask: object,
) -> float:
    """TypeError, ValueError or RuntimeError for what does not fit; returns the scale."""
    for name, x in (("query", query), ("key", key), ("value", value)):
        _check.floating(name, x)
    _check_features.ndim("query", query, 3, "[batch, d, positions]")
    batch, width, positions = query.shape
    if width < 1 or positions < 1:
        raise ValueError(f"query must have d and positions of at least 1, got shape {tuple(query.shape)}")
    if key.dim() != 3 or key.shape[:2] != query.shape[:2] or key.size(2) < 1:
        raise ValueError(
            f"key must be [{batch}, {width}, positions], at least one, for a query of shape "
            f"{tuple(query.shape)}, got {tuple(key.shape)}"
        )
    if value.dim() != 3 or value.size(0) != batch or value.size(2) != key.size(2) or value.size(1) < 1:
        raise ValueError(
            f"value must be [{batch}, masks, {key.size(2)}], at least one mask, for a key of shape "
            f"{tuple(key.shape)}, got {tuple(value.shape)}"
        )
    for name, x in (("key", key), ("value", value)):
        _check.same_device(name, x, "query", query)
    for name, mask, size in (("query_mask", query_mask, positions), ("key_mask", key_mask, key.size(2))):
        if mask is not None:
            _check_features.position_mask(name, mask, (batch, size), "query", query)
    return width**-0.5 if scale is None else _check.positive("scale", scale)


def _in_chunks(query, key, value, scale, query_mask, key_mask) -> tuple[Tensor, Tensor]:
    """The definition by chunks of queries, each made again in the backward pass."""
    batch, _, positions = query.shape
    rows = max(1, CHUNK // max(1, batch * key.size(2)))
    if rows >= positions:
        return attention_masks_reference(
            query, key, value, scale=scale, query_mask=query_mask, key_mask=key_mask
        )
    outs, sums = [], 0
    for first in range(0, positions, rows):
        some = slice(first, first + rows)
        mask = None if query_mask is None else query_mask[:, some]
        out, mean = made_again(
            attention_masks_reference,
            query[:, :, some],
            key,
            value,
            scale=scale,
            query_mask=mask,
            key_mask=key_mask,
        )
        count = out.size(2) if mask is None else mask.sum(1, keepdim=True)
        outs.append(out)
        sums = sums + mean * count
    total = positions if query_mask is None else query_mask.sum(1, keepdim=True).clamp(min=1)
    return torch.cat(outs, 2), sums / total


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 9, 35), make(2, 9, 20), make(2, 6, 20)], {}


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(query, key, value, *_):
    new = {"dtype": compute_type(query)}
    batch, queries = query.size(0), query.size(2)
    return (
        query.new_empty((batch, value.size(1), queries), **new),
        query.new_empty((batch, key.size(2)), **new),
        query.new_empty((batch, queries), **new),
    )


def _fake_backward(grad_out, grad_mean, out, lse, query, key, value, *_):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


register_fake("attention_masks", _fake)
register_fake("attention_masks_backward", _fake_backward)
