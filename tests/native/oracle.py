"""Textbook definitions of the divergences in extended precision, independent of how csrc computes them.

p = softmax(teacher / T), q = softmax(student / T); for a value V(p, q) the gradient by student j is
q_j (g_j - sum_i q_i g_i) / T with g = dV/dq. x86's long double has 64 bits of mantissa, so even plain
differences of logarithms keep 12 digits at the distances tested here.
"""

from __future__ import annotations

import numpy as np

Wide = np.longdouble


def softmax(x: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax of [rows, classes]; -inf is a class that cannot occur, a row of them is all zeros."""
    x = x.astype(Wide) / Wide(temperature)
    top = x.max(-1, keepdims=True)
    e = np.exp(x - np.where(np.isneginf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total != 0)


def _log_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """log a/b; 0 where a = 0 (its weight is 0), +inf where b = 0 < a."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(a == 0, 0, np.log(a) - np.log(b))


def _weighted(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0, weight * x)


def _through_softmax(q: np.ndarray, g: np.ndarray) -> np.ndarray:
    return q * (g - (q * g).sum(-1, keepdims=True))


def _kl_div(p, q, param):
    return _weighted(p, _log_ratio(p, q)).sum(-1), q - p


def _reverse_kl_div(p, q, param):
    r = _log_ratio(q, p)
    value = _weighted(q, r).sum(-1)
    finite = np.where(np.isinf(value)[:, None], 0, r)  # where it is +inf, the gradient is 0
    return value, _through_softmax(q, finite)


def _js_div(p, q, beta):
    m = beta * p + (1 - beta) * q
    to_p, to_q = _log_ratio(p, m), _log_ratio(q, m)
    value = beta * _weighted(p, to_p).sum(-1) + (1 - beta) * _weighted(q, to_q).sum(-1)
    return value, _through_softmax(q, (1 - beta) * to_q)


def _skew_kl_div(p, q, lam):
    m = lam * p + (1 - lam) * q
    share = np.divide(p, m, out=np.zeros_like(p), where=m != 0)
    return _weighted(p, _log_ratio(p, m)).sum(-1), _through_softmax(q, -(1 - lam) * share)


def _tv_dist(p, q, param):
    return abs(q - p).sum(-1) / 2, _through_softmax(q, np.sign(q - p) / 2)


_BY_NAME = {f.__name__[1:]: f for f in (_kl_div, _reverse_kl_div, _js_div, _skew_kl_div, _tv_dist)}
PARAMETER = {"js_div": 0.3, "skew_kl_div": 0.1}


def divergence(name: str, student: np.ndarray, teacher: np.ndarray, temperature: float, param: float):
    """(value [rows], gradient by student [rows, classes], counted [rows]); uncounted rows are 0."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    counted = (p.sum(-1) != 0) & (q.sum(-1) != 0)
    value, gradient = _BY_NAME[name](p, q, Wide(param))
    gradient = gradient / Wide(temperature)
    return np.where(counted, value, 0), np.where(counted[:, None], gradient, 0), counted
