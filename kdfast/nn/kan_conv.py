"""A convolution whose kernel entries are KAN edges."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from kdfast.nn.kan import KANLinear
from kdfast.ops import _check


class KANConv2d(nn.Module):
    """A convolution whose kernel entries are KAN edges: every patch [C * kh * kw] goes through one KANLinear.

    Args: as torch.nn.Conv2d's (int or pair), then KANLinear's. Padding is with zeros, which a KAN edge does
    not map to 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        **options: Any,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = _check.whole_number("in_channels", in_channels, 1), out_channels
        self.kernel_size, self.stride = _sides("kernel_size", kernel_size), _sides("stride", stride)
        self.padding, self.dilation = _sides("padding", padding, 0), _sides("dilation", dilation)
        self.edges = KANLinear(in_channels * math.prod(self.kernel_size), out_channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, O, H', W']."""
        y = self.edges(self._patches(x)).transpose(1, 2)
        return y.unflatten(2, self._output_size(x))

    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02) -> None:
        """KANLinear.update_grid on the patches of x [N, C, H, W]."""
        self.edges.update_grid(self._patches(x), margin, grid_eps)

    def regularization_loss(
        self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0, *, x: Tensor | None = None
    ) -> Tensor:
        """KANLinear.regularization_loss; with x [N, C, H, W], on its patches."""
        patches = None if x is None else self._patches(x)
        return self.edges.regularization_loss(regularize_activation, regularize_entropy, x=patches)

    def _patches(self, x: Tensor) -> Tensor:
        _check.floating("x", x)
        if x.dim() != 4 or x.size(1) != self.in_channels:
            raise ValueError(f"x must be [N, {self.in_channels}, H, W], got shape {tuple(x.shape)}")
        if min(self._output_size(x)) < 1:
            raise ValueError(
                f"x must be at least as large as the dilated kernel {self.kernel_size} with its padding, "
                f"got shape {tuple(x.shape)}"
            )
        unfolded = F.unfold(
            x, self.kernel_size, dilation=self.dilation, padding=self.padding, stride=self.stride
        )
        return unfolded.transpose(1, 2)

    def _output_size(self, x: Tensor) -> tuple[int, int]:
        return tuple(
            (x.size(2 + d) + 2 * self.padding[d] - self.dilation[d] * (self.kernel_size[d] - 1) - 1)
            // self.stride[d]
            + 1
            for d in range(2)
        )

    def extra_repr(self) -> str:
        window = f"{self.kernel_size}, {self.stride}, {self.padding}, {self.dilation}"
        return f"{self.in_channels}, {self.out_channels}, {window}"


def _sides(name: str, given: int | tuple[int, int], least: int = 1) -> tuple[int, int]:
    """An int or a pair as a pair: TypeError, ValueError."""
    pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an int or a pair of ints, got {given!r}")
    return tuple(_check.whole_number(name, n, least) for n in pair)
