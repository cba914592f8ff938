"""Total variation distance, half the sum of |q - p|."""

import triton
import triton.language as tl

from .divergence import Divergence, register


@triton.jit
def formula(p: tl.tensor, q: tl.tensor, d: tl.tensor, v: tl.tensor, near: tl.tensor, param: tl.tensor):
    """|q - p| / 2; score sgn(q - p) / 2 with sgn(0) = 0."""
    return 0.5 * tl.abs(d), tl.where(d > 0, 0.5, tl.where(d < 0, -0.5, 0.0))


MEMBER = Divergence(formula, score="sum", infinite="never")
register("tv_dist", MEMBER)
