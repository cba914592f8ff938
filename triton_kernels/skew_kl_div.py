"""KL(p || m) with m = lam p + (1 - lam) q: a KL that stays finite where the student excludes a class."""

import triton
import triton.language as tl

from .divergence import Divergence, register
from .formulas import bregman, log_mixture


@triton.jit
def formula(p: tl.tensor, q: tl.tensor, d: tl.tensor, v: tl.tensor, near: tl.tensor, param: tl.tensor):
    """p phi(log m/p); score -(1 - lam) p/m, in near rows plus 1 - lam, which keeps their digits."""
    share = 1 - param
    u, _ = log_mixture(share, v)
    mixture = param * p + share * q
    part = tl.where(near, share * d, -p) / tl.where(mixture == 0, 1.0, mixture)
    return bregman(p, u, share * d), share * part


MEMBER = Divergence(formula, score="sum", infinite="never")
register("skew_kl_div", MEMBER)
