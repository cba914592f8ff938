"""A divergence between the logits of two linear heads, without ever holding all logits: large
vocabularies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import compute_type, reduce_rows
from kdfast.ops._linear import LinearDivergence, Options, rows_of_chunk
from kdfast.ops.js_div import js_div_reference
from kdfast.ops.kl_div import kl_div_reference
from kdfast.ops.reverse_kl_div import reverse_kl_div_reference

# divergence=... -> its op, and its definition
DIVERGENCES = {
    "kl": ("kl_div", kl_div_reference),
    "reverse_kl": ("reverse_kl_div", reverse_kl_div_reference),
    "js": ("js_div", js_div_reference),
}


def linear_kl_div_reference(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: str = "kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
    chunk_rows: int | None = None,
) -> Tensor:
    """The definition: the divergence of hidden @ weight^T + bias of either side. All logits are in memory."""
    compute = compute_type(student_hidden, student_weight, teacher_hidden, teacher_weight)

    def logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            out = hidden.to(compute) @ weight.to(compute).t()
            return out if bias is None else out + bias.to(compute)

    student = logits(student_hidden, student_weight, student_bias)
    with torch.no_grad():
        teacher = logits(teacher_hidden, teacher_weight, teacher_bias)
    options = {"beta": beta} if divergence == "js" else {}
    return DIVERGENCES[divergence][1](
        student,
        teacher,
        temperature=temperature,
        mask=mask,
        scale_t2=scale_t2,
        reduction=reduction,
        **options,
    )


def linear_kl_div(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: str = "kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    scale_t2: bool = True,
    reduction: str = "batchmean",
    chunk_rows: int | None = None,
) -> Tensor:
    """kl_div(student_hidden @ student_weight^T + student_bias, the same of the teacher), in chunks of rows.

    Logits [N, C] are never all in memory: a chunk's logits become its share of the loss and of the gradients
    and are gone. Sums, also those of the weight's gradient over the chunks, are float32.

    Args:
        student_hidden: [N, H] or [..., H]; float64, float32, bfloat16 or float16. Gets the gradient.
        student_weight: [C, H], as torch.nn.Linear has it. Gets the gradient.
        teacher_hidden, teacher_weight: [N, G] and [C, G]; constants. G may differ from H.
        student_bias, teacher_bias: [C] or None. The student's gets the gradient.
        divergence: "kl" (kl_div), "reverse_kl" (reverse_kl_div) or "js" (js_div with `beta`).
        beta: the teacher's share in [0, 1], for "js".
        temperature, mask, scale_t2, reduction: as in kdfast.functional.kl_div; a mask has the shape of the
            hidden states without their last dimension.
        chunk_rows: rows of a chunk. By default an eighth of the rows but at least 256, and fewer only where a
            chunk's logits and gradient would take more than 1 GiB.

    Returns:
        float32 (float64 if an input is float64), 0-d or one value per row.

    A scalar reduction makes the gradients in the forward pass. reduction="none" goes over the chunks again in
    the backward pass. The definition (kdfast.use("reference")) holds all logits.

    torch.func.vmap takes its samples one after the other.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_heads(student_hidden, student_weight, student_bias, teacher_hidden, teacher_weight, teacher_bias)
    if not isinstance(divergence, str) or divergence not in DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(DIVERGENCES)}, got {divergence!r}")
    beta = _check.beta(beta)
    temperature = _check.positive("temperature", temperature)
    _check.flag("scale_t2", scale_t2)
    _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, student_hidden.shape[:-1], student_hidden)
    if chunk_rows is not None:
        _check.whole_number("chunk_rows", chunk_rows, 1)
    name = DIVERGENCES[divergence][0]
    kernels = backend.of(student_hidden, name)
    if kernels == "reference":
        return linear_kl_div_reference(
            student_hidden, student_weight, teacher_hidden, teacher_weight,
            student_bias=student_bias, teacher_bias=teacher_bias, divergence=divergence, beta=beta,
            temperature=temperature, mask=mask, scale_t2=scale_t2, reduction=reduction,
        )  # fmt: skip
    compute = compute_type(student_hidden, student_weight, teacher_hidden, teacher_weight)
    rows = student_hidden.numel() // student_hidden.size(-1)
    chunk = min(chunk_rows or rows_of_chunk(rows, student_weight.size(0), compute), max(rows, 1))
    options = Options(
        name, kernels, temperature, temperature**2 if scale_t2 else 1.0, beta if divergence == "js" else 0.0,
        compute, chunk,
    )  # fmt: skip
    heads = (student_hidden.flatten(0, -2), student_weight, student_bias)
    teacher = [
        None if x is None else x.detach()
        for x in (teacher_hidden.flatten(0, -2), teacher_weight, teacher_bias)
    ]
    weight = None if mask is None else mask.detach().to(compute).reshape(-1)
    known = [x is not None and x.requires_grad and torch.is_grad_enabled() for x in heads]
    # Inside torch.func.vmap a tensor does not say whether somebody around it wants its gradient.
    compiling = torch.compiler.is_compiling()
    transformed = not compiling and torch._C._functorch.maybe_current_level() is not None
    wanted = tuple([x is not None for x in heads]) if transformed else tuple(known)
    with_grad = reduction != "none" and any(known)
    value, counted, *_ = LinearDivergence.apply(*heads, *teacher, weight, options, wanted, with_grad)
    if reduction == "none":
        return value.reshape(student_hidden.shape[:-1])
    # value is the rows' sum where gradients were made in forward
    weight = counted if weight is None else torch.where(counted != 0, weight, 0)
    return reduce_rows(value, weight, reduction, student_hidden.size(0))


def _check_heads(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
) -> None:
    _check_head("student", hidden, weight, bias)
    _check_head("teacher", teacher_hidden, teacher_weight, teacher_bias)
    if hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        raise ValueError(
            "student_hidden and teacher_hidden must have the same rows, got shapes "
            f"{tuple(hidden.shape)} and {tuple(teacher_hidden.shape)}"
        )
    if weight.size(0) != teacher_weight.size(0):
        raise ValueError(
            f"student_weight and teacher_weight have {weight.size(0)} and {teacher_weight.size(0)} classes "
            "along dim 0: cut the larger, or give the smaller more rows with a bias of -inf, so that class i "
            "means the same on both sides"
        )
    _check.same_device("student_hidden", hidden, "teacher_hidden", teacher_hidden)


def _check_head(side: str, hidden: object, weight: object, bias: object) -> None:
    _check.floating(f"{side}_hidden", hidden)
    _check.floating(f"{side}_weight", weight)
    if hidden.dim() < 2:
        raise ValueError(f"{side}_hidden must have shape [rows, features], got {tuple(hidden.shape)}")
    if weight.dim() != 2 or weight.size(1) != hidden.size(-1):
        raise ValueError(
            f"{side}_weight must have shape [classes, {hidden.size(-1)}], to fit {side}_hidden of shape "
            f"{tuple(hidden.shape)}, got {tuple(weight.shape)}"
        )
    if weight.size(0) == 0 or weight.size(1) == 0:
        raise ValueError(f"{side}_weight must have at least one class and feature, got {tuple(weight.shape)}")
    _check.same_device(f"{side}_hidden", hidden, f"{side}_weight", weight)
    if bias is None:
        return
    _check.floating(f"{side}_bias", bias)
    if tuple(bias.shape) != (weight.size(0),):
        raise ValueError(f"{side}_bias must have shape ({weight.size(0)},), got {tuple(bias.shape)}")
    _check.same_device(f"{side}_hidden", hidden, f"{side}_bias", bias)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(5, 8), make(33, 8), make(5, 6), make(33, 6)], {}
