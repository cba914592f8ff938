"""Feature maps [B, P, C] of any strides and dtypes: what the kernels of the losses on features share."""

import torch
from torch import Tensor


def compute_type(student: Tensor, teacher: Tensor) -> torch.dtype:
    """float64 if a side is float64, else float32."""
    return torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32


def map_arguments(x: Tensor) -> tuple:
    """A map as kernel arguments: its memory and its three strides."""
    return x, *x.stride()
