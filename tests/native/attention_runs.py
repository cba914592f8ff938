"""Runs of the attention CUDA kernels on the emulated device, from tensors: what the ops do around them."""

from __future__ import annotations

import torch
from native.arrays import filled
from native.feature_runs import nothing, raw
from torch import Tensor


def _options(query: Tensor, scale: float | None, query_mask: Tensor | None, key_mask: Tensor | None) -> dict:
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    share = None if query_mask is None else query_mask.sum(1).clamp(min=1).to(wide).reciprocal()
    return {
        "scale": query.size(1) ** -0.5 if scale is None else scale,
        "query_mask": raw(query_mask),
        "share": raw(share),
        "key_mask": raw(key_mask),
    }


def attention_masks(native, query, key, value, *, scale=None, query_mask=None, key_mask=None):
    """out, mean and the rows' log-sum-exps."""
    kind = "float64" if query.dtype == torch.float64 else "float32"
    batch, _, queries = query.shape
    out = filled((batch, value.size(1), queries), kind)
    mean, lse = filled((batch, key.size(2)), kind), filled((batch, queries), kind)
    inputs = (raw(query), raw(key), raw(value))
    options = _options(query, scale, query_mask, key_mask)
    native.attention_masks(*inputs, **options, out=out, mean=mean, lse=lse)
    return torch.from_numpy(out), torch.from_numpy(mean), torch.from_numpy(lse)


def attention_masks_backward(native, grad_out, grad_mean, out, lse, inputs, **options):
    """The gradients of query, key and value."""
    grads = [nothing(x) for x in inputs]
    work = filled(tuple(lse.shape), str(lse.dtype).removeprefix("torch."))
    native.attention_masks(
        *map(raw, inputs),
        **_options(inputs[0], **{"scale": None, "query_mask": None, "key_mask": None, **options}),
        out=raw(out),
        lse=raw(lse),
        grad_out=raw(grad_out),
        grad_mean=raw(grad_mean),
        work=work,
        **dict(zip(("grad_query", "grad_key", "grad_value"), map(raw, grads), strict=True)),
    )
    return grads


def attention_map_kl(native, sq, sk, tq, tk, factor, *, query_mask=None, key_mask=None, with_grad=True):
    """Row values [B, N] and the gradients of their sum under `factor`."""
    kind = str(factor.dtype).removeprefix("torch.")
    value, lse = filled(tuple(factor.shape), kind), filled((2, *factor.shape), kind)
    grads = (nothing(sq), nothing(sk)) if with_grad else (None, None)
    native.attention_map_kl(
        *map(raw, (sq, sk, tq, tk)),
        student_scale=sq.size(2) ** -0.5,
        teacher_scale=tq.size(2) ** -0.5,
        query_mask=raw(query_mask),
        key_mask=raw(key_mask),
        factor=raw(factor),
        value=value,
        lse=lse,
        grad_query=raw(grads[0]),
        grad_key=raw(grads[1]),
    )
    return torch.from_numpy(value), *grads


def selection_masks(native, fused, units, *, valid=None, upstream=None):
    """Spatial masks and the map's mean; with `upstream` (of both) also the gradients of map and units."""
    kind = str(units.dtype).removeprefix("torch.")
    batch, channels, positions = fused.shape
    spatial = filled((batch, len(units), positions), kind)
    mean = filled((batch, channels), kind)
    count = torch.full((batch,), positions) if valid is None else valid.sum(1).clamp(min=1)
    shared = {"valid": raw(valid), "share": raw(count.to(units.dtype).reciprocal()), "spatial": spatial}
    native.selection_masks(raw(fused), raw(units), **shared, mean=mean)
    results = torch.from_numpy(spatial), torch.from_numpy(mean)
    if upstream is None:
        return results
    grads = nothing(fused), nothing(units)
    native.selection_masks(
        raw(fused),
        raw(units),
        **shared,
        grad_spatial=raw(upstream[0]),
        grad_mean=raw(upstream[1]),
        grad_fused=raw(grads[0]),
        grad_units=raw(grads[1]),
        logit_grad=filled(tuple(spatial.shape), kind),
    )
    return *results, *grads
