"""What the divergences' formulas are made of: Bregman terms and the logarithm of a mixture.

A room's formula is a function (p, q, d, v, near, param) -> (value, score) of one class, tensors of the
compute type: p = softmax(t/T), q = softmax(s/T), d = q - p, v = log q/p (within +-1e30), param = beta or
lambda; near says whether the row's two sides are near each other (row_statistics.NEAR), one for all its
classes.
`value` is the class's term, never negative. The gradient of the row's value with respect to s/T is d for the
forward KL, and q (score - sum q score) for every other member: the chain rule through softmax, with the score
df/dq up to a constant.

A class that is impossible on one side has p = 0 or q = 0 and v = +-1e30; on both sides p = q = d = 0 and v
finite. A weight of 0 then makes its product 0: no formula meets 0 * inf.
"""

import triton
import triton.language as tl

from .common import log1p, phi


@triton.jit
def bregman(weight, u, change):
    """weight * phi(u), given change = weight * expm1(u): a series near 0, else change - weight * u."""
    return tl.where(tl.abs(u) < 0.5, weight * phi(u), change - weight * u)


@triton.jit
def log_mixture(a, z):
    """L = log((1 - a) + a e^z) and L - z, each without cancellation, for 0 <= a <= 1 and |z| <= 1e30.

    L = log1p(a expm1(z)) where that is small; else the larger of the two terms is taken out of the logarithm.
    """
    a = tl.maximum(a, 1e-30)  # at a = 0, L is multiplied by 0: it need only be finite
    small = tl.abs(z) < 0.5
    x = a * tl.where(small, z + phi(tl.where(small, z, 0.0)), tl.exp(z) - 1)
    rest = tl.exp(-tl.abs(z))
    rest = tl.log(tl.where(z > 0, a + (1 - a) * rest, (1 - a) + a * rest))
    direct = tl.abs(x) < 0.5
    mixed = tl.where(direct, log1p(tl.where(direct, x, 0.0)), rest + tl.maximum(z, 0.0))
    return mixed, tl.where(direct, mixed - z, rest - tl.minimum(z, 0.0))
