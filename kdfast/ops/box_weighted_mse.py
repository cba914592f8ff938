"""Location- and context-aware memory distillation (LCMD): imitation of a DETR encoder's memory, weighted by
boxes.

CLoCKDistill, arXiv 2502.10683 (WACV 2026); the weights are those of FGD's focal loss (CVPR 2022) without its
attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._definition import compute_type
from kdfast.ops.box_weights import box_weights_reference, check_boxes, weights_for_loss
from kdfast.ops.weighted_mse import weighted_mse, weighted_mse_reference


def box_weighted_mse_reference(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    *,
    alpha: float = 5e-5,
    beta: float = 1e-7,
    mask: Tensor | None = None,
) -> Tensor:
    """The definition: sum of weight * squared error over tokens and features, / B."""
    joined = (
        torch.cat([b.float() for b in boxes]) if boxes else student.new_zeros((0, 4), dtype=torch.float32)
    )
    weight = box_weights_reference(
        joined, [b.size(0) for b in boxes], shapes, alpha, beta, mask, compute_type(student, teacher)
    )
    return weighted_mse_reference(student, teacher, position=weight)[0] / max(student.size(0), 1)


def box_weighted_mse(
    student: Tensor,
    teacher: Tensor,
    boxes: Sequence[Tensor],
    shapes: Sequence[tuple[int, int]],
    *,
    alpha: float = 5e-5,
    beta: float = 1e-7,
    mask: Tensor | None = None,
) -> Tensor:
    """Squared errors of an encoder's memory, weighed alpha / (box area) inside boxes and beta / (background)
    outside.

    Where boxes overlap the smallest wins. Areas and background are counted in cells, for each level and
    image.

    Args:
        student, teacher: memories [B, N, D], N = sum(h w) over the levels. The student gets the gradient.
        boxes: B tensors [n, 4] in normalised cxcywh of the padded input; n = 0 is allowed.
        shapes: the levels' (h, w), in the order of the tokens.
        alpha, beta: weights of foreground and background (the paper's 5e-5 and 1e-7).
        mask: [B, N], bool (or float); False drops a token from the sums and from the background's count.

    Returns:
        0-d, float32 (float64 if student or teacher is): summed over tokens and features, divided by B.

    Raises TypeError, ValueError or RuntimeError for bad input; boxes with NaN or negative sizes ValueError
    on the CPU.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 3, "[batch, tokens, features]")
    tokens = check_boxes(boxes, shapes)
    if tokens != student.size(1):
        raise ValueError(
            f"shapes {[tuple(s) for s in shapes]} add up to {tokens} tokens, but student has "
            f"{student.size(1)}"
        )
    if len(boxes) != student.size(0):
        raise ValueError(f"boxes must hold one tensor an image, {student.size(0)}, got {len(boxes)}")
    if boxes:
        _check.same_device("boxes[0]", boxes[0], "student", student)
    if mask is not None:
        _check.row_mask(mask, student.shape[:2], student)
    _check_features.not_negative("alpha", alpha)
    _check_features.not_negative("beta", beta)
    if not boxes:
        return box_weighted_mse_reference(student, teacher, boxes, shapes)
    weight = weights_for_loss(
        boxes, shapes, alpha=alpha, beta=beta, mask=mask, dtype=compute_type(student, teacher)
    )
    return weighted_mse(student, teacher, position=weight)[0] / student.size(0)


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    boxes = [torch.tensor([[0.4, 0.5, 0.5, 0.4]]), torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.7, 0.5, 0.4]])]
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 20, 3), make(2, 20, 3), boxes, [(4, 4), (2, 2)]], {"alpha": 1.0, "beta": 1.0}
