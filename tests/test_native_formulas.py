"""The formulas of csrc that are no divergence's (those are in test_native_math.py), reached directly: slopes
are the derivatives of values, parts merge in any order, definitions hold.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

STEP = 1e-3
SIXTH_ORDER = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}  # central differences, odd in the step
seeds = st.integers(0, 10**6)
many = settings(max_examples=60, deadline=None)


def slope_of(function, x, step=STEP):
    """The derivative of an array-valued function of one number."""
    difference = lambda k: function(x + k * step) - function(x - k * step)  # noqa: E731
    return sum(weight * difference(k) for k, weight in SIXTH_ORDER.items()) / step


def gradient_of(function, x, step=STEP):
    """The gradient of a scalar function of an array."""
    moved = lambda i: lambda v: function(np.where(np.arange(x.size).reshape(x.shape) == i, v, x))  # noqa: E731
    return np.array([slope_of(moved(i), x.flat[i], step) for i in range(x.size)]).reshape(x.shape)


def part(native, name, *numbers, dtype=np.float64):
    """One row of a formula or merge, from numbers and arrays of them."""
    row = np.concatenate([np.ravel(x) for x in numbers]).astype(dtype)
    return getattr(native, f"part_{np.dtype(dtype).name}")(name, row[None])[0]


def test_every_formula_is_tested(native_module):
    here = Path(__file__).read_text()
    for name in (*native_module.FORMULAS, *native_module.MERGES):
        assert f'"{name}"' in here, f"{name} has no test"


# ---- Slopes against values


@pytest.mark.parametrize(
    "name, count, values", [("soft_bce", 1, 1), ("class_box_l2", 1, 1), ("rpn_distill", 5, 2)]
)
@many
@given(seed=seeds, size=st.sampled_from([0.1, 1.0, 20.0]))
def test_points(native_module, name, count, values, seed, size):
    rng = np.random.default_rng(seed)
    s, t = size * rng.normal(size=(2, count))
    param = (0.1 * size, 0.0)
    apart = t[0] - s[0]
    assume(name != "rpn_distill" or min(abs(apart), abs(apart - param[0])) > 4 * STEP)  # its kinks
    out = part(native_module, name, s, t, param)
    total = gradient_of(lambda x: part(native_module, name, x, t, param)[:values].sum(), s)
    np.testing.assert_allclose(out[values:], total, rtol=1e-8, atol=1e-8 * size)
    single = part(native_module, name, s, t, param, dtype=np.float32)
    np.testing.assert_allclose(single, out, rtol=1e-5, atol=1e-5 * size)


@many
@given(seed=seeds)
def test_boxes(native_module, seed):
    """The kinks, where two edges coincide, are left out: there the slope is a convention."""
    rng = np.random.default_rng(seed)
    s, t = (np.concatenate([rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.5, 2)]) for _ in range(2))
    edges = [np.concatenate([x[:2] - x[2:] / 2, x[:2] + x[2:] / 2]) for x in (s, t)]
    step = 1e-4
    coincide = np.concatenate([edges[0] - edges[1], edges[0] - np.roll(edges[1], 2), s - t])
    assume(abs(coincide).min() > 8 * step)
    out = part(native_module, "box_loss", s, t, (5.0, 2.0))
    expected = gradient_of(lambda x: part(native_module, "box_loss", x, t, (5.0, 2.0))[0], s, step)
    np.testing.assert_allclose(out[1:], expected, rtol=1e-7, atol=1e-8)


@many
@given(n=st.floats(0.05, 20), gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_focal(native_module, n, gamma):
    def of(x):
        return part(native_module, "focal", x, -np.expm1(-x), np.exp(-x), gamma)

    value, slope = of(n)
    np.testing.assert_allclose(value, (1 - np.exp(-n)) ** gamma * n, rtol=1e-13)
    np.testing.assert_allclose(slope, slope_of(lambda x: of(x)[0], n), rtol=1e-8)


@many
@given(odds=st.floats(-30, 30), apart=st.one_of(st.floats(-1, 1), st.floats(-20, 20)))
def test_two_way(native_module, odds, apart):
    """KL of two classes and its slope by the student's log-odds; the plain form agrees where it is exact."""
    value, change = part(native_module, "two_way", odds, apart)
    expected = slope_of(lambda a: part(native_module, "two_way", odds, odds - a)[0], odds - apart)
    np.testing.assert_allclose(change, expected, rtol=1e-7, atol=1e-13)
    assert value >= 0
    plain = part(native_module, "two_way_plain", odds, odds - apart)
    np.testing.assert_allclose((value, change), plain, rtol=1e-10, atol=2e-15)


@many
@given(seed=seeds, longer=st.booleans())
def test_nd_row(native_module, seed, longer):
    s, m, t = np.random.default_rng(seed).normal(size=(3, 6))
    t *= (0.5 if longer else 2) * np.linalg.norm(s) / np.linalg.norm(t)

    def of(x):
        return part(native_module, "nd_row", x @ x, t @ t, m @ m, x @ m)

    value, by_mean, by_student = of(s)
    norm = max(np.linalg.norm(s), np.linalg.norm(t))
    np.testing.assert_allclose(value, 1 - s @ m / np.linalg.norm(m) / norm, rtol=1e-12)
    np.testing.assert_allclose(
        by_mean * m + by_student * s, gradient_of(lambda x: of(x)[0], s), rtol=1e-7, atol=1e-9
    )


@many
@given(seed=seeds, eps=st.sampled_from([0.0, 1e-6, 100.0]))
def test_normalized(native_module, seed, eps):
    """r = a - b from scale and ratio; 2 / |z| (r - <a, r> a) is the gradient of |r|^2 if |z| > eps."""
    s, t = np.random.default_rng(seed).normal(size=(2, 5))

    def distance(x):
        scale, ratio, slope = part(native_module, "normalized", x @ x, t @ t, eps)
        return scale * (x - ratio * t), scale * x, slope

    r, a, slope = distance(s)
    unit = [x / max(np.linalg.norm(x), eps) for x in (s, t)]
    np.testing.assert_allclose(r, unit[0] - unit[1], rtol=1e-12, atol=1e-14)
    if eps > 1:
        assert slope == 0
        return
    expected = gradient_of(lambda x: np.square(distance(x)[0]).sum(), s)
    np.testing.assert_allclose(slope * (r - (a @ r) * a), expected, rtol=1e-7, atol=1e-9)


@many
@given(seed=seeds, distance=st.sampled_from([1e-3, 0.3, 3.0]))
def test_correlation(native_module, seed, distance):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=7)
    b = a + distance * rng.normal(size=7)
    a, b = a - a.mean(), b - b.mean()

    def of(x):
        moments = (x @ x, b @ b, x @ b, (x - b) @ (x - b))
        return part(native_module, "correlation", moments, 7, 0.2, 0.2)

    value, scale, share = of(a)
    rho = (a @ b) / (np.sqrt((a @ a) * (b @ b)) + 1e-8)  # DIST's eps
    np.testing.assert_allclose(value, 1 - rho, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(
        scale * ((a - b) - share * a), gradient_of(lambda x: of(x)[0], a), rtol=1e-6, atol=1e-8
    )


@many
@given(seed=seeds, n=st.integers(2, 9))
def test_edge_slope(native_module, seed, n):
    rng = np.random.default_rng(seed)
    phi, upstream = rng.normal(size=n), rng.normal(size=3)
    assume(abs(phi).min() > 4 * STEP)  # |phi| has a kink

    def loss(x):
        return upstream @ [abs(x).mean(), np.square(x).mean(), x.var(ddof=1)]

    factors = upstream * (1 / n, 2 / n, 2 / (n - 1))
    slopes = [part(native_module, "edge_slope", factors, phi.mean(), x)[0] for x in phi]
    np.testing.assert_allclose(slopes, gradient_of(loss, phi), rtol=1e-8, atol=1e-9)


@many
@given(x=st.floats(-30, 30))
def test_silu(native_module, x):
    value, slope = part(native_module, "silu", x)
    np.testing.assert_allclose(value, x / (1 + np.exp(-x)), rtol=1e-13)
    np.testing.assert_allclose(slope, slope_of(lambda v: part(native_module, "silu", v)[0], x), rtol=1e-8)


@pytest.mark.parametrize("name, degree", [("bspline1", 1), ("bspline3", 3), ("bspline5", 5)])
@many
@given(seed=seeds, at=st.floats(0.1, 0.9))
def test_bspline(native_module, name, degree, seed, at):
    """On one span: a partition of one, never negative, and slopes that are derivatives."""
    rng = np.random.default_rng(seed)
    knots = np.cumsum(rng.uniform(0.2, 1, 2 * degree))
    x = knots[degree - 1] + at * (knots[degree] - knots[degree - 1])

    def of(v):
        return part(native_module, name, v, knots)

    value, slope = np.split(of(x), 2)
    assert (value >= 0).all()
    np.testing.assert_allclose(value.sum(), 1, rtol=1e-14)
    np.testing.assert_allclose(
        slope, slope_of(lambda v: of(v)[: degree + 1], x), rtol=1e-7, atol=1e-8 * abs(slope).max()
    )


@pytest.mark.parametrize("pairwise", [False, True])
@many
@given(seed=seeds, count=st.integers(2, 4))
def test_overlap_of_masks(native_module, pairwise, seed, count):
    """W of the gradient sum_j W_ij m_j, from inner products."""
    masks = np.random.default_rng(seed).uniform(0.1, 1, (count, 3))
    pairs = count * (count - 1)

    def of(m):
        dots = m @ m.T
        if not pairwise:
            value, off, on = native_module.ratio_overlap(dots.sum() - np.trace(dots), np.trace(dots))
            return value, np.where(np.eye(count) > 0, on, off)
        total, weights = 0.0, np.zeros((count, count))
        for i in range(count):
            for j in range(i):
                value, off, on = native_module.pair_overlap(dots[i, j], dots[i, i], dots[j, j], pairs)
                total += value
                weights[i, j] = weights[j, i] = off
                weights[i, i] += on
                weights[j, j] += on
        return total, weights

    _, weights = of(masks)
    np.testing.assert_allclose(weights @ masks, gradient_of(lambda m: of(m)[0], masks), rtol=1e-7, atol=1e-9)


# ---- Parts that merge


@many
@given(st.lists(st.one_of(st.floats(-700, 700), st.just(-np.inf)), min_size=3, max_size=3))
def test_log_add_is_associative(native_module, numbers):
    a, b, c = numbers

    def add(x, y):
        return part(native_module, "log_add", x, y)[0]

    np.testing.assert_allclose(add(add(a, b), c), add(a, add(b, c)), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(add(add(a, b), c), np.logaddexp.reduce(numbers), rtol=1e-14, atol=1e-15)


def column_of(q, p):
    """The means of some rows of a class and the moments about them, and how many they are."""
    a, b = q - q.mean(), p - p.mean()
    return np.array([q.mean(), p.mean(), a @ a, b @ b, a @ b, (a - b) @ (a - b)]), len(q)


@many
@given(
    seed=seeds,
    counts=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    around=st.sampled_from([1e-3, 1e-6]),
)
def test_columns_join_in_any_order(native_module, seed, counts, around):
    """Means of 0.1 and deviations of a millionth of it: moments keep their digits however rows are cut."""
    rng = np.random.default_rng(seed)
    q, p = 0.1 + around * rng.normal(size=(2, sum(counts)))
    cuts = np.cumsum(counts)[:2]
    parts = [column_of(x, y) for x, y in zip(np.split(q, cuts), np.split(p, cuts), strict=True)]

    def join(x, y):
        (a, n), (b, m) = x, y
        return part(native_module, "join", a, b, m / (n + m), n * m / (n + m)), n + m

    whole = column_of(q, p)[0]
    for joined in (
        join(join(parts[0], parts[1]), parts[2])[0],
        join(parts[0], join(parts[1], parts[2]))[0],
        join(join(parts[2], parts[0]), parts[1])[0],
    ):
        np.testing.assert_allclose(joined[:2], whole[:2], rtol=1e-14)
        np.testing.assert_allclose(joined[2:], whole[2:], rtol=1e-7, atol=1e-9 * around**2)


@many
@given(seed=seeds, cuts=st.sets(st.integers(1, 39), max_size=4), mean=st.sampled_from([0.0, 1e3]))
def test_edge_sums_merge_at_any_cuts(native_module, seed, cuts, mean):
    """A run's sums are taken about the mean so far; the variance is that of all samples at once."""
    phi = mean + np.random.default_rng(seed).normal(size=40)
    sums, before = np.zeros(4), 0
    for run in np.split(phi, sorted(cuts)):
        shift = sums[2] if before else run[0]
        around = run - shift
        numbers = (abs(run).sum(), run @ run, shift, around.sum(), around @ around, len(run), before)
        sums, before = part(native_module, "edge_sums", sums, numbers), before + len(run)
    expected = (abs(phi).sum(), phi @ phi, phi.mean(), np.square(phi - phi.mean()).sum())
    np.testing.assert_allclose(sums, expected, rtol=1e-10, atol=1e-12)
