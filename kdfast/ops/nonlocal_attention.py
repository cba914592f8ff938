"""Non-local attention without a softmax (the dot-product form of Wang et al., CVPR 2018, eq. 4), as CanKD
(arXiv 2511.21503, WACV 2026) uses it across student and teacher.

    out_i = 1/L sum_j (q_i . k_j) v_j = (1/L sum_j v_j k_j^T) q_i

With no softmax between them the products may be joined from the other side: 2 d C (N + L) multiplications
instead of N L (d + C), and a [C, d] matrix instead of an [N, L] one. Equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._product import product


def nonlocal_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, *, associate: bool | None = None
) -> Tensor:
    """The definition, with the map [B, N, L] in memory; `associate` is not looked at."""
    q, k, v = (x.to(compute_type(query, key, value)) for x in (query, key, value))
    return product(v, (product(q.mT, k) / k.size(2)).mT)


def nonlocal_attention(query: Tensor, key: Tensor, value: Tensor, *, associate: bool | None = None) -> Tensor:
    """Cross-attention with the plain dot products over L as weights.

    Args:
        query: [B, d, N], any float dtype and strides; a feature map's view is `x.flatten(2)`.
        key: [B, d, L].
        value: [B, C, L]. All three get gradients.
        associate: True multiplies value and key first, False query and key first (parity with code that
            does); None takes what costs fewer multiplications.

    Returns:
        [B, C, N], float32 (float64 if an input is float64).

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_inputs(query, key, value)
    if associate is not None:
        _check.flag("associate", associate)
    (_, width, queries), keys, channels = query.shape, key.size(2), value.size(1)
    if associate is None:
        associate = width * channels * (queries + keys) <= queries * keys * (width + channels)
    if not associate:
        return nonlocal_attention_reference(query, key, value)
    q, k, v = (x.to(compute_type(query, key, value)) for x in (query, key, value))
    return product(product(v, k.mT) / keys, q)


def _check_inputs(query: object, key: object, value: object) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        _check.floating(name, x)
        _check_features.ndim(name, x, 3, "[batch, channels, positions]")
        if x.size(1) < 1 or x.size(2) < 1:
            raise ValueError(
                f"{name} must have at least one channel and position, got shape {tuple(x.shape)}"
            )
    if key.shape[:2] != query.shape[:2]:
        raise ValueError(
            f"key must have the query's batch and channels, got {tuple(key.shape)} and {tuple(query.shape)}"
        )
    if value.size(0) != key.size(0) or value.size(2) != key.size(2):
        raise ValueError(
            f"value must have the key's batch and positions, got {tuple(value.shape)} and {tuple(key.shape)}"
        )
    for name, x in (("key", key), ("value", value)):
        _check.same_device(name, x, "query", query)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 5, 35), make(2, 5, 20), make(2, 7, 20)], {}
