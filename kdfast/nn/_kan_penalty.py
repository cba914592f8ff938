"""Penalties for many and equal edges of a KAN layer, on its coefficients or on what its edges do."""

from __future__ import annotations

import torch
from torch import Tensor


def coefficient_penalty(coef: Tensor) -> tuple[Tensor, Tensor]:
    """efficient-kan's, of coef [O, I, bases]: sum of l_oi = mean_m |c_oim|, and the entropy of l / sum l."""
    size = coef.abs().mean(-1)
    total = size.sum()
    share = size / torch.where(total == 0, 1, total)
    return total, -(share * torch.where(share > 0, share, 1).log()).sum()  # xlogy has no gradient at 0


def activation_penalty(edge_variance: Tensor, input_variance: Tensor) -> tuple[Tensor, Tensor]:
    """pykan's, of variances over samples [O, I] and [I]: sum of v_oi = std(phi_oi) / (std(x_i) + 0.1), and
    the mean entropies (in bits) over rows and over columns of v."""
    size = _root(edge_variance) / (_root(input_variance) + 0.1)
    return size.sum(), _bits(size, 1).mean() + _bits(size, 0).mean()


def _root(variance: Tensor) -> Tensor:
    """The standard deviation, with gradient 0 where the variance is 0."""
    return torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)


def _bits(size: Tensor, dim: int) -> Tensor:
    """pykan's entropy of size along dim."""
    share = size / (size.sum(dim, keepdim=True) + 1)
    return -(share * torch.log2(share + 1e-4)).sum(dim)
