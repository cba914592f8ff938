"""Sums of squared errors under weights of positions and of channels: the kernel below the losses on feature maps.

    value_position = sum_{b,p} a_bp e_bp,   e_bp = sum_c v_bc (t - s)_bpc^2
    value_channel  = sum_{b,c} b_bc g_bc,   g_bc = sum_p (t - s)_bpc^2

One pass over student and teacher gives both, the errors e and g (the gradients of a and b) and the student's gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast.ops import _check, _check_features
from kdfast.ops._divergence import compute_type
from kdfast.ops._features import attached_zero


def weighted_mse_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    position: Tensor | None = None,
    channel: Tensor | None = None,
    gain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The definition, over [B, P, C]."""
    compute = compute_type(student, teacher)
    s, t = student.to(compute), teacher.detach().to(compute)
    values = []
    for weight, summed in ((position, 2), (channel, 1)):
        if weight is None:
            values.append(attached_zero(student, compute))
            continue
        # By selection: where the weight is 0 (padding) NaN is harmless.
        dropped = (weight == 0).unsqueeze(summed) & ~(t - s).isfinite()
        square = torch.where(dropped, 0, torch.where(dropped, 0, t) - torch.where(dropped, 0, s)).square()
        if summed == 2 and gain is not None:
            square = square * gain.detach().to(compute).unsqueeze(1)
        values.append((weight.to(compute) * square.sum(summed)).sum())
    return values[0], values[1]


def weighted_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    position: Tensor | None = None,
    channel: Tensor | None = None,
    gain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Squared errors summed under a weight for each position, and under a weight for each channel.

    Args:
        student, teacher: [B, P, C] (tokens; a map's view is `x.flatten(2).mT`), any dtypes and strides. The student gets a
            gradient.
        position: weights [B, P]; get a gradient.
        channel: weights [B, C]; get a gradient.
        gain: [B, C], multiplies the squared errors of the first sum by channel; a constant.

    Returns:
        (sum of position * gain * squared errors, sum of channel * squared errors), 0-d, float32 (float64 if student or
        teacher is); 0 for absent weights. A weight of 0 drops what it belongs to: NaN there is harmless.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check_features.pair(student, teacher)
    _check_features.ndim("student", student, 3, "[batch, positions, channels]")
    batch, positions, channels = student.shape
    for name, weight, size in (
        ("position", position, positions),
        ("channel", channel, channels),
        ("gain", gain, channels),
    ):
        if weight is not None:
            _check.floating(name, weight)
            _check_features.shape(
                name, weight, (batch, size), f"[batch, {'positions' if name == 'position' else 'channels'}]"
            )
            _check.same_device(name, weight, "student", student)
    return weighted_mse_reference(student, teacher, position=position, channel=channel, gain=gain)
