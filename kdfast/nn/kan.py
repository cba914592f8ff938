"""Kolmogorov-Arnold layers: KANLinear (loads efficient-kan's state_dicts) and KAN (a stack of them)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.nn._kan_grid import adapted_grid, fit, moved, uniform_grid
from kdfast.nn._kan_penalty import activation_penalty, coefficient_penalty
from kdfast.ops import _check
from kdfast.ops._bspline import check_degree, check_extrapolation, check_knots
from kdfast.ops._kan import BASES

_NOISE = 0.1  # efficient-kan's scale_noise


class KANLinear(nn.Module):
    """A linear layer whose edges are splines plus silu: y_o = sum_i base_oi silu(x_i) + scaler_oi
    spline_oi(x_i).

    Parameters and buffer have efficient-kan's names and shapes, so that its state_dicts load and give the
    same output: base_weight [O, I], spline_weight [O, I, G+k], spline_scaler [O, I] (if `scale`), grid [I,
    G+2k+1].

    Args:
        in_features, out_features: I, O.
        grid_size: G, the number of intervals of grid_range.
        degree: k, 0 to 5 (efficient-kan's spline_order).
        grid_range: the interval that the grid divides; k more knots go on beyond each end.
        base: the base function, "silu".
        scale: whether each edge's spline has a learnable factor of its own.
        extrapolation: "zero", "linear" or "clamp", as in `kdfast.functional.kan_linear`.
        generator: draws the first weights, instead of torch's global one; on `device`.

    The grid is checked when it is built, loaded or updated: ValueError if it is not ascending, finite and
    wide.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        grid_size: int = 5,
        degree: int = 3,
        grid_range: Sequence[float] = (-1.0, 1.0),
        base: str = "silu",
        scale: bool = True,
        extrapolation: str = "zero",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, size in (
            ("in_features", in_features),
            ("out_features", out_features),
            ("grid_size", grid_size),
        ):
            _check.whole_number(name, size, 1)
        self.degree = check_degree(degree)
        check_extrapolation(extrapolation)
        if base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got {base!r}")
        grid = uniform_grid(grid_range, grid_size, degree, dtype or torch.get_default_dtype())
        self.in_features, self.out_features, self.grid_size = in_features, out_features, grid_size
        self.grid_range, self.base, self.extrapolation = tuple(grid_range), base, extrapolation
        made = {"device": device, "dtype": dtype}
        self.register_buffer("grid", grid.expand(in_features, -1).to(device).contiguous())
        self.base_weight = nn.Parameter(torch.empty(out_features, in_features, **made))
        self.spline_weight = nn.Parameter(torch.empty(out_features, in_features, grid_size + degree, **made))
        if scale:
            self.spline_scaler = nn.Parameter(torch.empty(out_features, in_features, **made))
        else:
            self.register_parameter("spline_scaler", None)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """efficient-kan's: Kaiming for base_weight and spline_scaler, splines through small noise at the grid
        points."""
        nn.init.kaiming_uniform_(self.base_weight, a=math.sqrt(5), generator=generator)
        points = self.grid[:, self.degree : self.grid.size(1) - self.degree].T
        if points.is_meta:
            return
        shape = self.in_features, points.size(0), self.out_features
        noise = torch.rand(shape, device=points.device, generator=generator).double() - 0.5
        coef = fit(points, self.grid, self.degree, "clamp") @ (noise * (_NOISE / self.grid_size))
        self.spline_weight.copy_(coef.permute(2, 0, 1))
        if self.spline_scaler is not None:
            nn.init.kaiming_uniform_(self.spline_scaler, a=math.sqrt(5), generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O], in x's dtype."""
        return KF.kan_linear(x, self.spline_weight, **self._options())

    def edge_stats(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of |phi|, mean of phi^2 and variance of every edge over x [..., I]: [O, I] each."""
        return KF.kan_edge_stats(x, self.spline_weight, **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "grid": self.grid,
            "degree": self.degree,
            "scale": self.spline_scaler,
            "base_weight": self.base_weight,
            "base": self.base,
            "extrapolation": self.extrapolation,
        }

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02) -> None:
        """Moves the knots to where the samples x [..., I] are; the splines keep their values there.

        Knots are order statistics of x, mixed with a uniform grid over its range (plus `margin`) in the ratio
        1 - grid_eps to grid_eps; coefficients are the least-squares fit at the samples, of least norm where
        samples are few. The scaler is left alone, and multiplies the same spline as before.
        """
        if _check.finite("margin", margin) < 0:
            raise ValueError(f"margin must be at least 0, got {margin}")
        if not 0 <= _check.finite("grid_eps", grid_eps) <= 1:
            raise ValueError(f"grid_eps must be from 0 to 1, got {grid_eps}")
        points = self._rows(x).to(torch.float64)
        if points.size(0) == 0 or not points.isfinite().all():
            raise ValueError("x must hold at least one sample, and only finite numbers, to place a grid")
        grid = adapted_grid(points, self.grid_size, self.degree, margin, grid_eps).to(self.grid.dtype)
        check_knots(grid, self.degree)
        weight = moved(self.spline_weight, points, self.grid, grid, self.degree, self.extrapolation)
        self.spline_weight.copy_(weight)
        self.grid.copy_(grid)

    def regularization_loss(
        self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0, *, x: Tensor | None = None
    ) -> Tensor:
        """A penalty for many and equal edges: regularize_activation * size + regularize_entropy * entropy.

        Without x, efficient-kan's, on the coefficients: size sum of l_oi = mean_m |c_oim|, entropy of l / sum
        l (0 for edges that are 0). With x [..., I], pykan's, on what the edges do to these samples: v_oi =
        std(phi_oi) / (std(x_i) + 0.1), size sum of v, and the mean entropies (in bits) over rows and over
        columns of v.
        """
        if x is None:
            size, entropy = coefficient_penalty(self.spline_weight)
        else:
            spread = self._rows(x).to(self.grid.dtype).var(0)
            size, entropy = activation_penalty(self.edge_stats(x)[2], spread)
        return regularize_activation * size + regularize_entropy * entropy

    def _rows(self, x: Tensor) -> Tensor:
        """x [..., I] as [B, I]: TypeError, ValueError."""
        _check.floating("x", x)
        if x.dim() == 0 or x.size(-1) != self.in_features:
            raise ValueError(f"x must be [..., {self.in_features}], got shape {tuple(x.shape)}")
        return x.reshape(-1, self.in_features)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        grid = state_dict.get(prefix + "grid")
        if isinstance(grid, Tensor) and not grid.is_meta and grid.shape == self.grid.shape:
            check_knots(grid, self.degree)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, grid_size={self.grid_size}, degree={self.degree}, "
            f"scale={self.spline_scaler is not None}, extrapolation={self.extrapolation!r}"
        )


class KAN(nn.Sequential):
    """KANLinear layers one after the other: KAN([784, 64, 10]). Options go to every layer."""

    def __init__(self, sizes: Sequence[int], **options: Any) -> None:
        if not isinstance(sizes, Sequence) or isinstance(sizes, str):
            raise TypeError(f"sizes must be a sequence of ints, such as [784, 64, 10], got {sizes!r}")
        if len(sizes) < 2:
            raise ValueError(f"sizes must name at least the inputs and the outputs, got {list(sizes)}")
        for size in sizes:
            _check.whole_number("each of sizes", size, 1)
        super().__init__(*(KANLinear(i, o, **options) for i, o in zip(sizes[:-1], sizes[1:], strict=True)))

    def __getitem__(self, index: int | slice) -> nn.Module:
        """A layer, or a plain nn.Sequential of some."""
        layers = list(self)[index]
        return nn.Sequential(*layers) if isinstance(index, slice) else layers

    @torch.no_grad()
    def update_grid(self, x: Tensor, margin: float = 0.01, grid_eps: float = 0.02) -> None:
        """Every layer's `update_grid`, on what reaches it when x [..., I] goes in."""
        for layer in self:
            layer.update_grid(x, margin, grid_eps)
            x = layer(x)

    def regularization_loss(
        self, regularize_activation: float = 1.0, regularize_entropy: float = 1.0, *, x: Tensor | None = None
    ) -> Tensor:
        """The sum over the layers; with x, each layer's on what reaches it."""
        total = 0
        for layer in self:
            total = total + layer.regularization_loss(regularize_activation, regularize_entropy, x=x)
            x = layer(x) if x is not None else None
        return total
