"""Generalized Jensen-Shannon: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q."""

import triton
import triton.language as tl

from .divergence import Divergence, register
from .formulas import bregman, log_mixture


@triton.jit
def formula(p: tl.tensor, q: tl.tensor, d: tl.tensor, v: tl.tensor, near: tl.tensor, param: tl.tensor):
    """beta p phi(u) + (1 - beta) q phi(w), u = log m/p, w = log m/q; score -(1 - beta) w.

    u - w = v, so one logarithm serves: that of the lighter side's mixture weight, whose difference to v keeps
    its digits.
    """
    share = 1 - param
    light_teacher = param <= 0.5
    mixed, other = log_mixture(tl.minimum(param, share), tl.where(light_teacher, -v, v))
    u = tl.where(light_teacher, other, mixed)
    w = tl.where(light_teacher, mixed, other)
    value = param * bregman(p, u, share * d) + share * bregman(q, w, -param * d)
    return value, -share * w


MEMBER = Divergence(formula, score="sum", infinite="never")
register("js_div", MEMBER)
