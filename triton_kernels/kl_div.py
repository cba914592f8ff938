"""KL(p || q): the teacher's distribution p against the student's q."""

import triton
import triton.language as tl

from .divergence import Divergence, register
from .formulas import bregman


@triton.jit
def formula(p: tl.tensor, q: tl.tensor, d: tl.tensor, v: tl.tensor, near: tl.tensor, param: tl.tensor):
    """p phi(log q/p); the gradient is d = q - p, so there is no score."""
    return bregman(p, v, d), d


MEMBER = Divergence(formula, score="none", infinite="student")
register("kl_div", MEMBER)
