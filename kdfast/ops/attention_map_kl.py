"""Kullback-Leibler divergence between two attention maps, from queries and keys: attention transfer of
transformers (MiniLM, TinyBERT and relatives) without either map in memory.

    A = softmax_j(scale q_i . k_j) on each side, value of a row i: KL(A_teacher_i || A_student_i)

Its gradient by the student's logits is A_student - A_teacher, so a chunk of rows is all that is ever held:
the chunk's logits of both sides become its values and its share of the gradients, and are gone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._again import made_again
from kdfast.ops._definition import compute_type, reduce_rows
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import scale_grad

CHUNK = 1 << 22  # logits that are held at once


def attention_map_kl_reference(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    *,
    student_scale: float | None = None,
    teacher_scale: float | None = None,
    key_mask: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """The definition, with both maps [..., N, L] in memory."""
    compute = compute_type(student_query, teacher_query)
    weight = None if mask is None else mask.detach().to(compute)
    student = _logits(student_query, student_key, student_scale, compute, weight, key_mask)
    with torch.no_grad():
        teacher = _logits(teacher_query, teacher_key, teacher_scale, compute, weight, key_mask)
    value = _row_kl(student, teacher, key_mask)
    if weight is None:
        weight = torch.ones_like(value)
    some = torch.ones_like(weight) if key_mask is None else _spread(key_mask, value).any(-1).to(compute)
    return reduce_rows(value * weight, weight * some, reduction, student_query.size(0))


def _spread(key_mask: Tensor, value: Tensor) -> Tensor:
    """[B, L] -> [B, 1, ..., N, L], to fit values [B, ..., N]."""
    shape = (key_mask.size(0), *[1] * (value.dim() - 2), 1, key_mask.size(1))
    return key_mask.reshape(shape).expand(*value.shape, key_mask.size(1))


def _logits(query, key, scale, compute, weight, key_mask) -> Tensor:
    query, key = query.to(compute), key.to(compute)
    if weight is not None:  # by selection: what a dropped row or token holds is harmless
        query = torch.where((weight != 0).unsqueeze(-1), query, 0)
    if key_mask is not None:
        allowed = key_mask.reshape(key_mask.size(0), *[1] * (key.dim() - 3), key_mask.size(1), 1)
        key = torch.where(allowed, key, 0)
    scale = query.size(-1) ** -0.5 if scale is None else scale
    with torch.autocast(query.device.type, enabled=False):
        return scale * (query @ key.mT)


def _row_kl(student: Tensor, teacher: Tensor, key_mask: Tensor | None) -> Tensor:
    """KL(teacher || student) of each row; 0 for a row without a key."""
    if key_mask is None:
        difference = teacher.log_softmax(-1) - student.log_softmax(-1)
        return (teacher.softmax(-1) * difference).sum(-1)
    allowed = _spread(key_mask, student[..., 0])
    some = allowed.any(-1, keepdim=True)
    student, teacher = (torch.where(allowed | ~some, x, -float("inf")) for x in (student, teacher))
    difference = torch.where(allowed, teacher.log_softmax(-1) - student.log_softmax(-1), 0)
    return (teacher.softmax(-1) * difference).sum(-1)


def attention_map_kl(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    *,
    student_scale: float | None = None,
    teacher_scale: float | None = None,
    key_mask: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """KL(teacher's attention map || student's attention map), row by row.

    Args:
        student_query, student_key: [B, ..., N, d] and [B, ..., L, d], say [B, heads, N, d]; any float dtypes
            and strides. Both get gradients. N and L may differ.
        teacher_query, teacher_key: [B, ..., N, e] and [B, ..., L, e]; constants. e may differ from d. Other
            numbers of heads are matched by indexing before: teacher_query[:, heads].
        student_scale, teacher_scale: of the logits; d ** -0.5 and e ** -0.5 by default.
        key_mask: bool [B, L], True for a token that is attended to. A row without any: value 0, not counted.
        mask: bool or float, one value a row [B, ..., N]; 0 drops a row, a float weighs it.
        reduction: "mean" (over counted rows), "sum", "batchmean" or "none" (a value a row).

    Returns:
        float32 (float64 if a query is float64), 0-d or [B, ..., N].

    Memory is O(N + L) beside a chunk of logits of fixed size; neither map exists.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    check_maps(student_query, student_key, teacher_query, teacher_key)
    rows = student_query.shape[:-1]
    _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, rows, student_query)
    if key_mask is not None:
        size = (student_query.size(0), student_key.size(-2))
        _check_features.position_mask("key_mask", key_mask, size, "student_query", student_query)
    scales = {
        name: None if x is None else _check.positive(name, x)
        for name, x in (("student_scale", student_scale), ("teacher_scale", teacher_scale))
    }
    sides = (student_query, student_key, teacher_query.detach(), teacher_key.detach())
    kernels = backend.of(student_query, "attention_map_kl")
    if kernels == "reference":
        return _in_chunks(sides, scales, key_mask, mask, reduction)
    return _fused(sides, tuple(scales.values()), key_mask, mask, reduction, kernels)


def _fused(sides, scales, key_mask, mask, reduction: str, kernels: str) -> Tensor:
    """By the kernels: leading dimensions joined into one, weights and divisor in the gradient's factor."""
    rows, lead = sides[0].shape[:-1], sides[0].shape[:-2]
    compute = compute_type(sides[0], sides[2])
    flat = [x.reshape(-1, *x.shape[-2:]) for x in sides]
    scales = [x.size(-1) ** -0.5 if s is None else s for s, x in zip(scales, (flat[0], flat[2]), strict=True)]
    factor = torch.ones(rows, dtype=compute, device=flat[0].device)
    query_mask = None
    if mask is not None:
        query_mask = (mask != 0).reshape(flat[0].shape[:2]).contiguous()
        factor = mask.detach().to(compute)
    if key_mask is not None:
        factor = factor * key_mask.any(1).reshape(-1, *[1] * (len(rows) - 1))
        heads = lead.numel() // max(1, lead[0])
        key_mask = key_mask.repeat_interleave(heads, 0)
    if reduction == "mean":
        count = factor.sum()
        factor = factor * torch.where(count == 0, 0, 1 / torch.where(count == 0, 1, count))
    elif reduction == "batchmean":
        factor = factor / max(1, rows[0])
    scalar = reduction != "none"
    wanted = [x.requires_grad for x in flat[:2]]
    half = torch.float16 in (flat[0].dtype, flat[1].dtype)  # a loss scaler's factor is not known yet
    with_grad = scalar and torch.is_grad_enabled() and any(wanted) and not half
    factor = factor.reshape(flat[0].shape[:2]).contiguous()
    value = AttentionMapKL.apply(*flat, *scales, query_mask, key_mask, factor, kernels, scalar, with_grad)[0]
    return value if scalar else value.reshape(rows)


class AttentionMapKL(Function):
    """The op attention_map_kl of a backend: the sum of factor * value with its gradients, or (not `scalar`)
    factor * value of each row, whose gradients take a second walk.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(sq, sk, tq, tk, s_scale, t_scale, query_mask, key_mask, factor, kernels, scalar, with_grad):
        op = backend.ops(kernels).attention_map_kl
        value, *grads = op(sq, sk, tq, tk, s_scale, t_scale, query_mask, key_mask, factor, with_grad)
        value = value * factor
        return value.sum() if scalar else value, *grads

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, s_scale, t_scale, query_mask, key_mask, factor, kernels, scalar, with_grad = inputs
        _, *grads = output
        ctx.mark_non_differentiable(*grads)
        ctx.name, ctx.options = "attention_map_kl", (s_scale, t_scale, kernels, with_grad)
        saved = grads if with_grad else (*tensors, query_mask, key_mask, factor)
        ctx.save_for_backward(*saved)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        s_scale, t_scale, kernels, with_grad = ctx.options
        if with_grad:
            grads = [scale_grad(g, upstream, kernels) for g in ctx.saved_tensors]
        else:
            *tensors, query_mask, key_mask, factor = ctx.saved_tensors
            factor = (factor * upstream).contiguous()
            op = backend.ops(kernels).attention_map_kl
            _, *grads = op(*tensors, s_scale, t_scale, query_mask, key_mask, factor, True)
        grads = [g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False)]
        return *grads, *(None,) * 10


def _in_chunks(sides, scales, key_mask, mask, reduction) -> Tensor:
    """The definition by chunks of rows, each made again in the backward pass."""
    student_query, student_key, teacher_query, teacher_key = sides
    *lead, rows, _ = student_query.shape
    maps = max(1, torch.Size(lead).numel())
    chunk = max(1, CHUNK // max(1, maps * student_key.size(-2)))
    options = {**scales, "key_mask": key_mask, "reduction": "none"}

    def values(some: slice) -> Tensor:
        arguments = student_query[..., some, :], student_key, teacher_query[..., some, :], teacher_key
        weight = None if mask is None else mask[..., some]
        return made_again(
            attention_map_kl_reference,
            *arguments,
            **options,
            mask=weight,
        )

    if chunk >= rows:
        return attention_map_kl_reference(*sides, **scales, key_mask=key_mask, mask=mask, reduction=reduction)
    value = torch.cat([values(slice(first, first + chunk)) for first in range(0, rows, chunk)], -1)
    weight = torch.ones_like(value) if mask is None else mask.detach().to(value.dtype)
    if key_mask is not None:
        weight = weight * key_mask.any(1).reshape(-1, *[1] * (value.dim() - 1))
    return reduce_rows(value, weight, reduction, student_query.size(0))


def check_maps(
    student_query: object, student_key: object, teacher_query: object, teacher_key: object
) -> None:
    """TypeError, ValueError or RuntimeError for queries and keys that do not fit."""
    named = {
        "student_query": student_query,
        "student_key": student_key,
        "teacher_query": teacher_query,
        "teacher_key": teacher_key,
    }
    for name, x in named.items():
        _check.floating(name, x)
        if x.dim() < 3 or 0 in x.shape[-2:]:
            raise ValueError(
                f"{name} must be [batch, ..., length, d], none of the last two 0, got shape {tuple(x.shape)}"
            )
        _check.same_device(name, x, "student_query", student_query)
    for side, query, key in (
        ("student", student_query, student_key),
        ("teacher", teacher_query, teacher_key),
    ):
        if key.shape[:-2] != query.shape[:-2] or key.size(-1) != query.size(-1):
            raise ValueError(
                f"{side}_key must be {[*query.shape[:-2], 'keys', query.size(-1)]} for a {side}_query of "
                f"shape {tuple(query.shape)}, got {tuple(key.shape)}"
            )
    ours, theirs = (
        (*q.shape[:-1], k.size(-2)) for q, k in ((student_query, student_key), (teacher_query, teacher_key))
    )
    if ours != theirs:
        raise ValueError(f"both sides' maps must have one shape, got student {ours} and teacher {theirs}")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 3, 9, 4), make(2, 3, 7, 4), make(2, 3, 9, 6), make(2, 3, 7, 6)], {}


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(sq, sk, tq, tk, s_scale, t_scale, query_mask, key_mask, factor, with_grad):
    new = {"dtype": compute_type(sq, tq)}
    none = lambda: sq.new_empty(0, **new)  # noqa: E731
    grads = (torch.empty_like(sq), torch.empty_like(sk)) if with_grad else (none(), none())
    return sq.new_empty(sq.shape[:2], **new), *grads


register_fake("attention_map_kl", _fake)
