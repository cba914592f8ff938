"""The formulas of csrc/common, reached directly: functions in ULP over their whole range, at every CPU level
of this processor, by scalars and by vectors; parts that merge; gradients against values; half types."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native import kernels, oracle
from native.arrays import numbers, store

WIDTHS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
UNIT = {np.float32: 2.0**-23, np.float64: 2.0**-52}

# What each function is, how far it may be from it in ULP, and where it is tried.
EXACT = {
    "exp": (np.exp, 2, {np.float32: (-104, 89), np.float64: (-746, 710)}),
    "exp_below": (np.exp, 2, {np.float32: (-87, 0), np.float64: (-708, 0)}),
    "expm1": (np.expm1, 2, {np.float32: (-30, 89), np.float64: (-50, 710)}),
}


def ways(native):
    return [(level, vector) for level in native.LEVELS for vector in (False, True)]


def evaluate(native, name, x, level, vector):
    run = native.formula_float32 if x.dtype == np.float32 else native.formula_float64
    return run(name, x, level=level, vector=vector)


def ulps(result, exact):
    """|result - exact| in units of the last place of exact, denormals included."""
    dtype = result.dtype.type
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = exact.astype(dtype)
        error = abs(result.astype(np.longdouble) - exact) / np.spacing(abs(rounded)).astype(np.longdouble)
    same = (result == rounded) | (np.isnan(result) & np.isnan(exact))
    return np.where(same, 0, error)


def points(low, high, dtype, n=60000):
    """Dense over a range, dense around 0 at every exponent, and the ends."""
    rng = np.random.default_rng(0)
    tiny = 2.0 ** rng.uniform(-60, 0, n) * rng.choice([-1, 1], n)
    x = np.concatenate([np.linspace(low, high, n), tiny, [0.0, -0.0, low, high, 0.5, -0.5]]).astype(dtype)
    return x[(x >= low) & (x <= high)]


@WIDTHS
@pytest.mark.parametrize("name", EXACT)
def test_exponentials(native, name, dtype):
    function, bound, ranges = EXACT[name]
    x = points(*ranges[dtype], dtype)
    with np.errstate(over="ignore", under="ignore"):
        exact = function(x.astype(np.longdouble))
    for level, vector in ways(native):
        assert ulps(evaluate(native, name, x, level, vector), exact).max() <= bound, (level, vector)


@WIDTHS
def test_logarithms(native, dtype):
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    x = 2.0 ** rng.uniform(np.log2(float(info.smallest_subnormal)), info.maxexp - 1e-3, 60000)
    x = np.concatenate([x, 1 + rng.normal(0, 0.1, 60000), 1 + 2.0 ** -rng.uniform(1, 50, 9999)]).astype(dtype)
    x = x[x > 0]
    near = np.concatenate(
        [2.0 ** -rng.uniform(1, 60, 60000) * rng.choice([-1, 1], 60000), rng.uniform(-0.9, 9, 9999)]
    )
    near = near.astype(dtype)
    for level, vector in ways(native):
        assert ulps(evaluate(native, "log", x, level, vector), np.log(x.astype(np.longdouble))).max() <= 2
        exact = np.log1p(near.astype(np.longdouble))
        assert ulps(evaluate(native, "log1p", near, level, vector), exact).max() <= 4


@WIDTHS
def test_edges(native, dtype):
    inf, nan = np.inf, np.nan
    edges = {
        "exp": ([-inf, inf, nan, 0, -1e4, 1e4], [0, inf, nan, 1, 0, inf]),
        "exp_below": ([-inf, nan, 0, -1e4], [0, nan, 1, 0]),
        "expm1": ([-inf, inf, nan, 0], [-1, inf, nan, 0]),
        "log": ([0, -0.0, 1, inf, nan, -1, -inf], [-inf, -inf, 0, inf, nan, nan, nan]),
        "log1p": ([-1, 0, inf, nan, -2], [-inf, 0, inf, nan, nan]),
        "phi": ([0, nan, -inf], [0, nan, inf]),
    }
    for name, (x, y) in edges.items():
        for level, vector in ways(native):
            result = evaluate(native, name, np.array(x, dtype), level, vector)
            np.testing.assert_array_equal(result, np.array(y, dtype), err_msg=f"{name} {level} {vector}")


def phi_exact(x):
    with mpmath.workdps(60):
        return np.array([float(mpmath.expm1(mpmath.mpf(float(v))) - mpmath.mpf(float(v))) for v in x])


@WIDTHS
def test_phi(native, dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [2.0 ** rng.uniform(-40, 4, 300) * rng.choice([-1, 1], 300), [0.5, -0.5, 0.4999, -0.5001]]
    )
    x = x.astype(dtype)
    exact = phi_exact(x)
    for level, vector in ways(native):
        result = evaluate(native, "phi", x, level, vector).astype(float)
        assert (result >= 0).all()
        assert (
            abs(result - exact) <= 1e-6 * exact
            if dtype == np.float32
            else abs(result - exact) <= 1e-14 * exact
        ).all()


@settings(max_examples=200, deadline=None)
@given(st.floats(-745, 709), st.sampled_from(["exp", "expm1", "log", "log1p"]))
def test_against_mpmath(native_module, x, name):
    if name.startswith("log"):
        x = abs(x) or 1.0
    with mpmath.workdps(50):
        exact = getattr(mpmath, name)(mpmath.mpf(x))
        for level, vector in ways(native_module):
            result = evaluate(native_module, name, np.array([x]), level, vector)[0]
            unit = mpmath.mpf(float(np.spacing(abs(float(exact)))))
            assert abs(mpmath.mpf(float(result)) - exact) <= 4 * unit


# ---- Parts that merge --------------------------------------------------------------------------------------


def functions(native, dtype):
    suffix = np.dtype(dtype).name
    return [getattr(native, f"{name}_{suffix}") for name in ("statistics", "merge", "finish", "row")]


logits = st.one_of(st.floats(-30, 30), st.just(-np.inf))
triples = st.lists(st.tuples(logits, logits), min_size=3, max_size=12)


@settings(max_examples=150, deadline=None)
@given(triples, st.data(), st.sampled_from([0.5, 1.0, 4.0]))
def test_merging_is_associative(native_module, pairs, data, temperature):
    """Any way of cutting a row in three gives the statistics of the whole row, and so does the empty part."""
    statistics, merge, finish, _ = functions(native_module, np.float64)
    s, t = np.array(pairs).T
    i = data.draw(st.integers(0, len(pairs)))
    j = data.draw(st.integers(i, len(pairs)))
    shift = 0.25

    def part(begin, end):
        return statistics(s[begin:end], t[begin:end], shift, temperature)

    a, b, c, whole = part(0, i), part(i, j), part(j, len(pairs)), part(0, len(pairs))
    left = merge(merge(a, b, temperature), c, temperature)
    right = merge(a, merge(b, c, temperature), temperature)
    np.testing.assert_allclose(left, right, rtol=1e-13, atol=1e-300)
    # A part's excess is bounded by its sum of exponentials, and rounded as such.
    for x, y, allowed in zip(left, whole, [0, 1e-13, 0, 1e-13, None, 0], strict=True):
        np.testing.assert_allclose(x, y, rtol=allowed or 0, atol=1e-13 * whole[1] if allowed is None else 0)
    np.testing.assert_array_equal(merge(a, part(0, 0), temperature), a)


# ---- A row: value against the definition, gradient against the value ---------------------------------------


def evaluate_row(native, name, student, teacher, temperature, dtype=np.float64):
    statistics, _, finish, row = functions(native, dtype)
    s, t = student.astype(dtype), teacher.astype(dtype)
    shift = t[0] - s[0] if np.isfinite(t[0] - s[0]) else dtype(0)
    state = finish(statistics(s, t, shift, temperature), shift)
    return row(name, state, s, t, temperature, oracle.PARAMETER.get(name, 0.0))


NAMES = pytest.mark.parametrize("name", kernels.DIVERGENCES)
distances = st.sampled_from([1e-3, 0.02, 0.3, 3.0])


@NAMES
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    distance=distances,
    temperature=st.sampled_from([0.7, 1.0, 4.0]),
)
def test_row_against_definition(native_module, name, seed, n, distance, temperature):
    rng = np.random.default_rng(seed)
    t = rng.normal(0, 3, n)
    s = t + distance * rng.normal(size=n)
    value, gradient = evaluate_row(native_module, name, s, t, temperature)
    exact, exact_gradient, _ = oracle.divergence(
        name, s[None], t[None], temperature, oracle.PARAMETER.get(name, 0.0)
    )
    np.testing.assert_allclose(value, float(exact[0]), rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(gradient, exact_gradient[0].astype(float), rtol=1e-9, atol=1e-15)


@NAMES
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), distance=distances)
def test_gradient_is_the_derivative_of_the_value(native_module, name, seed, n, distance):
    """By central differences of order 6. Total variation has kinks: steps that cross one prove nothing."""
    rng = np.random.default_rng(seed)
    t = rng.normal(0, 2, n)
    s = t + distance * rng.normal(size=n)
    step = 1e-3
    weights = {1: 45 / 60, 2: -9 / 60, 3: 1 / 60}
    _, gradient = evaluate_row(native_module, name, s, t, 1.0)
    for i in range(n):
        derivative = 0.0
        crossings = set()
        for k, weight in weights.items():
            for sign in (1, -1):
                moved = s.copy()
                moved[i] += sign * k * step
                value, _ = evaluate_row(native_module, name, moved, t, 1.0)
                derivative += sign * weight * value / step
                p, q = oracle.softmax(t[None], 1.0), oracle.softmax(moved[None], 1.0)
                crossings.add(tuple(np.sign(q - p)[0]))
        if name == "tv_dist" and len(crossings) > 1:
            continue
        np.testing.assert_allclose(gradient[i], derivative, rtol=1e-8, atol=1e-11)


# ---- Half types --------------------------------------------------------------------------------------------


def test_widening_every_half(native):
    bits = np.arange(1 << 16, dtype=np.uint16)
    for level in native.LEVELS:
        np.testing.assert_array_equal(
            native.widen(bits.view(np.float16), level=level), bits.view(np.float16).astype(np.float32)
        )
        np.testing.assert_array_equal(native.widen(bits, level=level), numbers(bits).astype(np.float32))


def test_narrowing_rounds_to_even(native):
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint64).astype(np.uint32).view(np.float32)
    halves = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = halves.view(np.float16).astype(np.float32)
        between = ((exact[:-1].astype(float) + exact[1:]) / 2).astype(np.float32)  # ties of float16
        x = np.concatenate(
            [
                random,
                exact,
                between,
                np.nextafter(between, np.float32(np.inf)),
                numbers(halves),
                random * 1e-20,
            ]
        )
        x = x.astype(np.float32)
        for level in native.LEVELS:
            for to in ("float16", "bfloat16"):
                result, expected = native.narrow(x, to=to, level=level), store(x, to).view(np.uint16)
                nan = np.isnan(x)
                np.testing.assert_array_equal(result[~nan], expected[~nan])
                widened = result[nan].view(np.float16) if to == "float16" else numbers(result[nan])
                assert np.isnan(widened).all()
