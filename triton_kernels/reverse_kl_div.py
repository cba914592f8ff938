"""KL(q || p): the student's distribution q against the teacher's p."""

import triton
import triton.language as tl

from .divergence import Divergence, register
from .formulas import bregman


@triton.jit
def formula(p: tl.tensor, q: tl.tensor, d: tl.tensor, v: tl.tensor, near: tl.tensor, param: tl.tensor):
    """q phi(log p/q); score log q/p, whose mean under q is the divergence itself."""
    return bregman(q, -v, -d), v


MEMBER = Divergence(formula, score="linear", infinite="teacher")
register("reverse_kl_div", MEMBER)
