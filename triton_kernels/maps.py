"""Feature maps [B, P, C] of any strides and dtypes: what the kernels of the losses on features share."""

from torch import Tensor


def map_arguments(x: Tensor) -> tuple:
    """A map as kernel arguments: its memory and its three strides."""
    return x, *x.stride()
