"""Sparse teachers: the top-k log-probabilities of logits, and the form in which a TeacherCache keeps them.

Kept for each distribution: the k largest log-probabilities l at temperature T (float16 by default), their
classes (uint16, or uint32 above 65536 classes), and the log of their total mass m (float32). Read back as

    log p_i = l_i - logsumexp(l) + log m

so that rounding l moves no probability between the top k and the tail.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

_UINT16_CLASSES = 2**16


class TopK(NamedTuple):
    """A sparse teacher: the k largest log-probabilities, largest first, and their classes; both [..., k].

    `KF.topk_kl_div(student, *topk, temperature=T)` takes it, and a Term's loss gets it as two arguments.
    """

    log_probs: torch.Tensor
    indices: torch.Tensor


def top_k_of(logits: torch.Tensor, k: int, temperature: float = 1.0) -> TopK:
    """The k most probable classes of logits [..., C] at a temperature, in float32 (float64 for float64)."""
    if not isinstance(logits, torch.Tensor) or not logits.is_floating_point():
        given = logits.dtype if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise TypeError(f"outputs must be logits, a floating-point tensor, or a TopK, got {given}")
    if logits.dim() == 0 or logits.shape[-1] < k:
        raise ValueError(
            f"outputs has shape {list(logits.shape)}; top_k={k} needs at least {k} classes, last"
        )
    scaled = logits.detach().to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    values, indices = scaled.topk(k, dim=-1)
    log_probs = values - scaled.logsumexp(-1, keepdim=True)
    return TopK(torch.where(values == -torch.inf, values, log_probs), indices)  # all logits -inf: no NaN


def encode(
    outputs: Any, k: int, temperature: float, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], int]:
    """(tensors as stored, bytes as given) of logits, or of a TopK at the cache's temperature."""
    if isinstance(outputs, TopK):
        top, given = outputs, list(outputs)
        classes = int(top.indices.max()) + 1 if top.indices.numel() else 0
    else:
        top, given = top_k_of(outputs, k, temperature), [outputs]
        classes = outputs.shape[-1]
    if top.log_probs.shape != top.indices.shape or top.log_probs.shape[-1:] != (k,):
        raise ValueError(
            f"outputs has log_probs {list(top.log_probs.shape)} and indices {list(top.indices.shape)}; both "
            f"must end in top_k={k}"
        )
    tensors = {
        "indices": top.indices.to("cpu", torch.uint16 if classes <= _UINT16_CLASSES else torch.uint32),
        "log_mass": top.log_probs.detach().logsumexp(-1).to("cpu", torch.float32),
        "log_probs": top.log_probs.detach().to("cpu", dtype),
    }
    return tensors, sum(tensor.nbytes for tensor in given)


def decode(tensors: dict[str, torch.Tensor]) -> TopK:
    """float32 log-probabilities with their exact total mass, and int64 classes."""
    rounded = tensors["log_probs"].float()
    shift = tensors["log_mass"].unsqueeze(-1) - rounded.logsumexp(-1, keepdim=True)
    return TopK(rounded + torch.where(shift.isfinite(), shift, 0.0), tensors["indices"].to(torch.int64))
