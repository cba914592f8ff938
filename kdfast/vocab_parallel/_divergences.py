"""The divergences of logits whose classes are spread over ranks: see kdfast.vocab_parallel."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdfast.ops import _check
from kdfast.ops._definition import compute_type, row_weight
from kdfast.ops._sharded import ShardedDivergence
from kdfast.vocab_parallel._shards import finish, sharded, whole


def _divergence(
    name: str, student: Tensor, teacher: Tensor, group: Any, param: float = 0.0, **options: Any
) -> Tensor:
    (student, mesh_group), (teacher, _) = sharded(student, "student"), sharded(teacher, "teacher")
    _check.logits_pair(student, teacher, -1)
    temperature = _check.positive("temperature", options["temperature"])
    _check.flag("scale_t2", options["scale_t2"])
    _check.reduction(options["reduction"])
    mask = whole(options["mask"])
    if mask is not None:
        _check.row_mask(mask, student.shape[:-1], student)
    rows = row_weight(mask, student.to(compute_type(student, teacher)))
    value, counted = ShardedDivergence.apply(
        student, teacher.detach(), name, param, temperature, group or mesh_group
    )
    value = value * (temperature**2 if options["scale_t2"] else 1)
    return finish(value, counted, rows, options["reduction"], student.size(0))


def kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(p || q) of logits whose last dimension, the classes, is spread over the ranks of `group`:
    p = softmax(teacher / T), q = softmax(student / T).

    Args:
        student, teacher: this rank's logits [..., C_rank], the same classes on both sides; float64, float32,
            bfloat16 or float16, any strides. Or DTensors sharded on their last dimension. Ranks may hold
            different numbers of classes, at least one each. The student gets the gradient.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the same on every rank, like all options.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        The loss of whole rows, float32 (float64 if a side is), 0-d or [...], the same on every rank; never
        negative. A row all of whose logits are -inf on a side is 0 and not counted; one whose teacher gives
        mass to a class that the student cannot have is +inf, with a finite gradient.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531.
    """
    return _divergence(
        "kl_div", student, teacher, group,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def reverse_kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(q || p) of logits whose last dimension, the classes, is spread over the ranks of `group`:
    p = softmax(teacher / T), q = softmax(student / T).

    Args:
        student, teacher: this rank's logits [..., C_rank], the same classes on both sides; float64, float32,
            bfloat16 or float16, any strides. Or DTensors sharded on their last dimension. Ranks may hold
            different numbers of classes, at least one each. The student gets the gradient.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the same on every rank, like all options.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        The loss of whole rows, float32 (float64 if a side is), 0-d or [...], the same on every rank; never
        negative. A row all of whose logits are -inf on a side is 0 and not counted; one whose student gives
        mass to a class that the teacher cannot have is +inf, and its gradient 0.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Gu et al., "MiniLLM", ICLR 2024, arXiv 2306.08543.
    """
    return _divergence(
        "reverse_kl_div", student, teacher, group,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def js_div(
    student: Tensor,
    teacher: Tensor,
    *,
    beta: float = 0.5,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, of logits whose last dimension, the
    classes, is spread over the ranks of `group`: p = softmax(teacher / T), q = softmax(student / T).

    Args:
        student, teacher: this rank's logits [..., C_rank], the same classes on both sides; float64, float32,
            bfloat16 or float16, any strides. Or DTensors sharded on their last dimension. Ranks may hold
            different numbers of classes, at least one each. The student gets the gradient.
        beta: the teacher's share, in [0, 1]; at both ends the loss is 0.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the same on every rank, like all options.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        The loss of whole rows, float32 (float64 if a side is), 0-d or [...], the same on every rank; never
        negative, always finite. A row all of whose logits are -inf on a side is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Agarwal et al., "On-Policy Distillation of Language Models", ICLR 2024, arXiv 2306.13649, eq. 1.
    """
    beta = _check.beta(beta)
    return _divergence(
        "js_div", student, teacher, group, beta,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def skew_kl_div(
    student: Tensor,
    teacher: Tensor,
    *,
    lam: float = 0.1,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """KL(p || lam p + (1 - lam) q) of logits whose last dimension, the classes, is spread over the ranks of
    `group`: p = softmax(teacher / T), q = softmax(student / T).

    Args:
        student, teacher: this rank's logits [..., C_rank], the same classes on both sides; float64, float32,
            bfloat16 or float16, any strides. Or DTensors sharded on their last dimension. Ranks may hold
            different numbers of classes, at least one each. The student gets the gradient.
        lam: the teacher's share in the mixture, in (0, 1).
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the same on every rank, like all options.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        The loss of whole rows, float32 (float64 if a side is), 0-d or [...], the same on every rank; never
        negative, always finite. A row all of whose logits are -inf on a side is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Ko et al., "DistiLLM", ICML 2024, arXiv 2402.03898.
    """
    lam = _check.lam(lam)
    return _divergence(
        "skew_kl_div", student, teacher, group, lam,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip


def tv_dist(
    student: Tensor,
    teacher: Tensor,
    *,
    group: Any = None,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
) -> Tensor:
    """sum |p - q| / 2 of logits whose last dimension, the classes, is spread over the ranks of `group`:
    p = softmax(teacher / T), q = softmax(student / T).

    Args:
        student, teacher: this rank's logits [..., C_rank], the same classes on both sides; float64, float32,
            bfloat16 or float16, any strides. Or DTensors sharded on their last dimension. Ranks may hold
            different numbers of classes, at least one each. The student gets the gradient.
        group: a torch.distributed process group; the default group, or the DTensor's, if None.
        temperature: T > 0, the same on every rank, like all options.
        mask: bool or float [...], the same on every rank; 0 drops the row, other values weigh it.
        scale_t2: multiply by T^2.
        reduction: "batchmean" (sum / size(0)), "mean" (sum / sum of the mask over counted rows), "sum" or
            "none" (a value per row).

    Returns:
        The loss of whole rows, float32 (float64 if a side is), 0-d or [...], the same on every rank; in
        [0, 1], times T^2 if asked for. A row all of whose logits are -inf on a side is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.

    Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation", ACL 2023, eq. 8.
    """
    return _divergence(
        "tv_dist", student, teacher, group,
        temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
    )  # fmt: skip
