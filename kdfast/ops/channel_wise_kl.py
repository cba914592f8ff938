"""Channel-wise distillation (CWD): every channel's map is a distribution over positions.

Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021, arXiv 2011.13256.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check_features
from kdfast.ops.kl_div import kl_div, kl_div_reference


def channel_wise_kl_reference(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """The definition: T^2 / (B C) times the sum over samples and channels of KL over positions (eq. 3)."""
    return kl_div_reference(student, teacher, temperature=temperature, dim=(2, 3), reduction="mean")


def channel_wise_kl(student: Tensor, teacher: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Mean over samples and channels of T^2 KL(softmax over positions), the `kl_div` kernel over joined (2,
    3).

    Args:
        student, teacher: maps or logits [B, C, H, W] of one shape. The student gets the gradient.
        temperature: T > 0.

    Returns 0-d, float32 (float64 if an input is).
    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 4, "[batch, channels, height, width]")
    return kl_div(student, teacher, temperature=temperature, dim=(2, 3), reduction="mean")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    return [torch.randn(2, 6, 8, 8, generator=generator) for _ in range(2)], {}
