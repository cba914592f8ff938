"""How much a sample's masks overlap: the diversity loss of ACAM-KD (ICCV 2025) and of MasKD (ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops._fake import register_fake
from kdfast.ops._features import attached_zero, divide
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops._pairs import makes_gradient
from kdfast.ops.scale_grad import scale_grad

FORMS = ("ratio_of_sums", "pairwise_mean")
# Masks that training shrinks reach 1e-25, whose squares are no float32 numbers any more. The overlap does not
# depend on a sample's scale, so its largest element is made 1 first; masks below SMALLEST count as zeros.
SMALLEST, SMALLEST_SQUARE = 1e-18, 1e-20


def dice_diversity_reference(masks: Tensor, *, form: str = "ratio_of_sums") -> Tensor:
    """The definition, over the Gram matrix G = M M^T of a sample's masks, averaged over the batch."""
    compute = compute_type(masks)
    masks = masks.to(compute).flatten(2) if masks.dim() > 2 else masks.to(compute).unsqueeze(-1)
    batch, count, _ = masks.shape
    if batch == 0 or count < 2 or masks.numel() == 0:
        return attached_zero(masks, compute)
    masks = masks / masks.detach().abs().amax((1, 2), keepdim=True).clamp(min=SMALLEST)
    gram = (masks.unsqueeze(1) * masks.unsqueeze(2)).sum(-1)  # [B, M, M]
    square = gram.diagonal(dim1=1, dim2=2)  # [B, M]
    other = ~torch.eye(count, dtype=torch.bool, device=masks.device)
    if form == "ratio_of_sums":
        return divide((gram * other).sum((1, 2)), _mass(square.sum(1))).mean()
    pairs = divide(2 * gram, _mass(square.unsqueeze(1) + square.unsqueeze(2)))
    return (pairs * other).sum((1, 2)).mean() / (count * (count - 1))


def _mass(square: Tensor) -> Tensor:
    """A denominator, 0 where its reciprocal would overflow in a gradient."""
    return torch.where(square < SMALLEST_SQUARE, 0, square)


class DiceDiversity(Function):
    """The ops dice_diversity and dice_diversity_backward of a backend, over masks [B, P, M]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(masks, kernels, pairwise, with_grad):
        return backend.ops(kernels).dice_diversity(masks, pairwise, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        masks, ctx.kernels, ctx.pairwise, ctx.with_grad = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.name = "dice_diversity"
        ctx.save_for_backward(output[1] if ctx.with_grad else masks)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        if grad_value is None:
            return (None,) * 4
        if ctx.with_grad:
            return scale_grad(*ctx.saved_tensors, grad_value, ctx.kernels), *(None,) * 3
        op = backend.ops(ctx.kernels).dice_diversity_backward
        return op(grad_value, *ctx.saved_tensors, ctx.pairwise), *(None,) * 3


def dice_diversity(masks: Tensor, *, form: str = "ratio_of_sums") -> Tensor:
    """Dice overlap of every sample's masks with one another; 0 where nothing overlaps.

    "ratio_of_sums": sum_{i != j} 2 M_i.M_j over sum_{i, j} halves of |M_i|^2 + |M_j|^2, as the paper prints
    it; through column sums it is (|sum_m M_m|^2 - sum_m |M_m|^2) / sum_m |M_m|^2. Identical masks give M - 1.
    "pairwise_mean": the mean over i != j of 2 M_i.M_j / (|M_i|^2 + |M_j|^2). Identical masks give 1.

    Args:
        masks: [B, M, ...], any float dtype; gets the gradient.
        form: which of the two.

    Returns:
        0-d, float32 (float64 for float64 masks): the mean over the batch. 0 for M = 1, for masks of zeros,
        for B = 0.

    Raises TypeError or ValueError for bad input, before anything runs.
    """
    _check.floating("masks", masks)
    if masks.dim() < 2:
        raise ValueError(f"masks must be [batch, masks, ...], got shape {tuple(masks.shape)}")
    _check_features.option("form", form, FORMS)
    kernels = backend.of(masks, "dice_diversity")
    if kernels == "reference" or masks.numel() == 0 or masks.size(1) < 2:
        return dice_diversity_reference(masks, form=form)
    maps = masks.flatten(2) if masks.dim() > 2 else masks.unsqueeze(-1)
    return DiceDiversity.apply(maps.mT, kernels, form == "pairwise_mean", makes_gradient(masks))[0]


# ---- Fake kernels ----------------------------------------------------------------------------------------


def _fake(masks, pairwise, with_grad):
    compute = compute_type(masks)
    grad = torch.empty_like(masks) if with_grad else masks.new_empty(0, dtype=compute)
    return masks.new_empty((), dtype=compute), grad


register_fake("dice_diversity", _fake)
register_fake("dice_diversity_backward", lambda up, masks, pairwise: torch.empty_like(masks))


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.rand(2, 4, 8, 8, generator=generator)], {}
