"""Runs of attention_masks' CUDA kernels on the emulated device, from torch tensors: what the op does around
them.
"""

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
