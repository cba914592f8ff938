"""The CUDA kernels of csrc, run on the emulated device against textbook definitions in extended precision.

KDFAST_NATIVE_FULL=1 (make sanitize) runs every combination; otherwise kl_div runs nearly all, and its
relatives, which share its kernels, a third.
"""

import os
from dataclasses import dataclass, replace

import numpy as np
import pytest
from native import kernels, oracle
from native.arrays import (
    LAYOUTS,
    ROUNDING,
    SMALLEST,
    far_apart,
    filled,
    holes_are_untouched,
    numbers,
    place,
    store,
)

FULL = os.environ.get("KDFAST_NATIVE_FULL") == "1"
ALL_DTYPES = [(d, d) for d in kernels.DTYPES] + list(kernels.MIXED)
NAMES = pytest.mark.parametrize("name", kernels.DIVERGENCES)
PAIRS = pytest.mark.parametrize(("student", "teacher"), ALL_DTYPES, ids=["-".join(p) for p in ALL_DTYPES])


@dataclass(frozen=True)
class Case:
    name: str
    rows: int = 3
    cols: int = 33
    student: str = "float32"
    teacher: str = "float32"
    layout: str = "aligned"
    distance: float = 1.0  # how far the student's logits are from the teacher's
    temperature: float = 2.0
    masked: bool = False
    impossible: bool = False  # some -inf logits, and rows of nothing else

    @property
    def param(self):
        return oracle.PARAMETER.get(self.name, 0.0)

    @property
    def compute(self):
        return "float64" if "float64" in (self.student, self.teacher) else "float32"

    @property
    def all_rows(self):
        return 2 * self.rows if self.layout == "images" else self.rows

    def inputs(self):
        """(student, teacher, mask or None): float64 values that their dtypes hold exactly."""
        rng = np.random.default_rng([self.rows, self.cols, len(self.layout)])
        teacher = rng.normal(0, 3, (self.all_rows, self.cols))
        student = teacher + self.distance * rng.normal(size=teacher.shape)
        if self.impossible:
            student[rng.random(student.shape) < 0.2] = -np.inf
            teacher[rng.random(student.shape) < 0.2] = -np.inf
            student[::5], teacher[1::5] = -np.inf, -np.inf
        mask = None
        if self.masked:
            mask = rng.choice([0.0, 1.0, 0.5], self.all_rows).astype(self.compute)
            student[mask == 0] = np.nan  # must not be read
        return numbers(store(student, self.student)), numbers(store(teacher, self.teacher)), mask


@dataclass
class Result:
    value: np.ndarray
    weight: np.ndarray
    state: np.ndarray
    grad: np.ndarray  # of the forward pass, then of the backward pass
    grad_again: np.ndarray


def run(native, case):
    """Forward with a gradient and with a state, then backward; every output starts as NaN."""
    student, teacher, mask = case.inputs()
    n = case.all_rows
    _, s = place(case.layout, case.rows, case.cols, case.student, student)
    _, t = place(case.layout, case.rows, case.cols, case.teacher, teacher)
    before = s.copy(), t.copy()
    base, grad = place(case.layout, case.rows, case.cols, case.student)
    base_again, grad_again = place(case.layout, case.rows, case.cols, case.student)
    value, weight, state = (filled(shape, case.compute) for shape in ((n,), (n,), (n, 8)))
    fixed = {"temperature": case.temperature, "scale": case.temperature**2, "param": case.param, "mask": mask}
    factor = case.temperature  # scale / temperature
    native.divergence_forward(case.name, s, t, row_value=value, row_weight=weight, state=state, grad=grad,
                              grad_factor=factor, **fixed)  # fmt: skip
    one = np.ones(1, case.compute)
    native.divergence_backward(case.name, s, t, grad=grad_again, state=state, upstream=one, norm=one, **fixed)
    np.testing.assert_array_equal(s, before[0])
    np.testing.assert_array_equal(t, before[1])
    rows = (numbers(g).reshape(n, case.cols) for g in (grad, grad_again))
    result = Result(value, weight, state, *rows)
    assert holes_are_untouched(base, grad) and holes_are_untouched(base_again, grad_again)
    return result


def check(native, case):
    """Runs a case and compares everything that it wrote."""
    result = run(native, case)
    student, teacher, mask = case.inputs()
    weight = np.ones(case.all_rows) if mask is None else mask.astype(np.float64)
    student[weight == 0] = 0.0
    value, gradient, counted = oracle.divergence(case.name, student, teacher, case.temperature, case.param)
    weight = np.where(counted, weight, 0.0)
    value[weight == 0], gradient[weight == 0] = 0.0, 0.0
    value = (value * weight * case.temperature**2).astype(np.float64)
    gradient = (gradient * weight[:, None] * case.temperature**2).astype(np.float64)
    wide = case.compute == "float64"
    np.testing.assert_array_equal(result.weight, weight)
    # Total variation is a sum of |q - p| as it is; the terms of the others vanish with the square of it.
    linear = 1e-7 * case.temperature**2 if case.name == "tv_dist" and not wide else 0.0
    np.testing.assert_allclose(result.value, value, rtol=1e-10 if wide else 3e-5, atol=1e-17 + linear)
    assert (result.value >= 0).all()
    # Whole tensors to 1e-5 (the required budget), single numbers to the rounding of p and q.
    budget = (1e-12 if wide else 1e-5) + ROUNDING[case.student]
    scale = (1e-14 if wide else 4e-7) * case.temperature
    for grad in (result.grad, result.grad_again):
        error = abs(grad - gradient)
        assert (error <= budget * abs(gradient) + scale + SMALLEST[case.student]).all(), case
        smallest = (SMALLEST[case.student] + 1e-18) * np.sqrt(
            error.size
        )  # 1e-18: the definition's own rounding
        assert np.linalg.norm(error) <= budget * np.linalg.norm(gradient) + smallest, case
    return result


def sizes(name, layout, student, teacher):
    """(rows, cols) of a test; which third of them changes with what else it tries."""
    columns = kernels.COLUMNS + kernels.WIDE_COLUMNS
    if FULL:
        return [(rows, cols) for cols in columns for rows in kernels.ROWS]
    if name == "kl_div":
        return [(1 + 2 * (i % 2), cols) for i, cols in enumerate(kernels.COLUMNS)]
    turn = len(layout) + ALL_DTYPES.index((student, teacher))
    return [(3, cols) for cols in columns[turn % 3 :: 3]]


@NAMES
@PAIRS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_dtypes_strides(native, name, student, teacher, layout):
    native.set_device(order="shuffled", seed=len(layout))
    for rows, cols in sizes(name, layout, student, teacher):
        check(native, Case(name, rows, cols, student, teacher, layout))


@NAMES
@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.05, 10.0])
def test_near_and_far(native, name, dtype, distance):
    for cols in (2, 33, 257, 1000):
        check(native, Case(name, 5, cols, dtype, dtype, distance=distance))


@NAMES
@pytest.mark.parametrize("layout", ["aligned", "columns"])
@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize(("rows", "cols"), [(23, 1), (23, 5), (11, 40), (5, 1100)])
def test_masks_and_impossible_classes(native, name, dtype, layout, rows, cols):
    case = Case(name, rows, cols, dtype, dtype, layout, masked=True)
    for order, seed in kernels.ORDERS if FULL else kernels.ORDERS[-1:]:
        native.set_device(order=order, seed=seed)
        check(native, case)
        check(native, replace(case, masked=False, impossible=True))
        check(native, replace(case, impossible=True))


@NAMES
@pytest.mark.parametrize("layout", ["padded", "columns"])
def test_same_bits_in_every_order(native, name, layout):
    for cols in (3, 33, 257, 1100):
        case = Case(name, 7, cols, layout=layout)
        first = run(native, case)
        for order, seed in kernels.ORDERS:
            native.set_device(order=order, seed=seed)
            again = run(native, case)
            for field in ("value", "weight", "state", "grad", "grad_again"):
                np.testing.assert_array_equal(getattr(first, field), getattr(again, field))


@NAMES
def test_more_rows_than_the_grid_has_teams(native, name):
    """Blocks then take several rows, one after the other, through the same shared memory."""
    native.set_device(order="shuffled", multiprocessors=1)
    check(native, Case(name, 70, 1100, masked=True))
    check(native, Case(name, 520, 130, masked=True))
    check(native, Case(name, 16500, 3, layout="columns"))


@NAMES
@pytest.mark.parametrize("cols", [14000, 40000])
def test_rows_beyond_shared_memory(native, name, cols):
    """With 14000 columns part of the row comes back from memory in the second pass, with 40000 most of it."""
    check(native, Case(name, 1, cols))


@NAMES
@pytest.mark.parametrize("strides", [((1 << 31) + 64, 1), (1, (1 << 31) + 64)], ids=["rows", "classes"])
def test_offsets_beyond_32_bits(native, name, strides):
    shape, values = (2, 3), np.random.default_rng(0).normal(size=(2, 2, 3))
    s, t, grad, grad_again = (far_apart(shape, strides, "float16") for _ in range(4))
    s[...], t[...] = values
    grad[...] = grad_again[...] = np.nan
    value, state = filled((2,), "float32"), filled((2, 8), "float32")
    fixed = {"temperature": 1.0, "scale": 1.0, "param": oracle.PARAMETER.get(name, 0.0)}
    native.divergence_forward(name, s, t, row_value=value, state=state, grad=grad, grad_factor=1.0, **fixed)
    one = np.ones(1, np.float32)
    native.divergence_backward(name, s, t, grad=grad_again, state=state, upstream=one, norm=one, **fixed)
    expected, gradient, _ = oracle.divergence(name, numbers(s), numbers(t), 1.0, fixed["param"])
    np.testing.assert_allclose(value, expected.astype(float), rtol=1e-5)
    for g in (grad, grad_again):
        np.testing.assert_allclose(numbers(g), gradient.astype(float), atol=1e-3)


@NAMES
def test_upstream_norm_and_mask_sum(native, name):
    case = Case(name, 6, 40)
    student, teacher, _ = case.inputs()
    plain = run(native, case)
    s, t = student.astype(np.float32), teacher.astype(np.float32)
    grad = filled(s.shape, "float32")
    fixed = {"temperature": case.temperature, "scale": case.temperature**2, "param": case.param}
    upstream = np.array([1, -2, 0, 0.5, 3, 1], np.float32)
    native.divergence_backward(name, s, t, grad=grad, state=plain.state, upstream=upstream,
                               norm=np.array([0.25], np.float32), **fixed)  # fmt: skip
    np.testing.assert_allclose(grad, plain.grad * upstream[:, None] / 4, rtol=1e-6)
    value = filled((6,), "float32")
    native.divergence_forward(name, s, t, row_value=value, grad=grad, grad_factor=2.0,
                              mask_sum=np.array([8], np.float32), **fixed)  # fmt: skip
    np.testing.assert_allclose(grad, plain.grad / 8, rtol=1e-6)
    np.testing.assert_array_equal(value, plain.value)


@NAMES
def test_no_rows(native, name):
    nothing = np.zeros((0, 5), np.float32)
    empty = np.zeros(0, np.float32)
    native.divergence_forward(name, nothing, nothing, row_value=empty, temperature=1.0, scale=1.0, param=0.0,
                              grad_factor=1.0)  # fmt: skip
    assert native.counters()["launches"] == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [0, 1, 3, 257, 1000, 8192, 8193, 20000])
def test_reduce_rows(native, rows, dtype):
    rng = np.random.default_rng(rows)
    value, weight = rng.random(rows).astype(dtype), rng.choice([0, 1, 0.5], rows).astype(dtype)
    counts = {0: None, 1: weight.astype(float).sum(), 2: 1.0, 3: 5.0}
    for reduction, count in counts.items():
        results = []
        for order, seed in kernels.ORDERS:
            native.set_device(order=order, seed=seed)
            loss, norm = filled((1,), dtype), filled((1,), dtype)
            native.reduce_rows(value.copy(), weight.copy(), loss, norm, reduction=reduction, batch=5.0,
                               presumed_count=7.0)  # fmt: skip
            results.append((loss, norm))
        assert all(np.array_equal(r, results[0], equal_nan=True) for r in results)
        loss, norm = results[0]
        if count is None:
            assert norm == 7 and np.isnan(loss)
        else:
            inverse = 0 if count == 0 else 1 / count
            np.testing.assert_allclose(loss, value.astype(float).sum() * inverse, rtol=1e-6)
            np.testing.assert_allclose(norm, 7 * inverse, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 31, 513, 5000])
def test_sum_mask(native, rows, dtype):
    mask, to = np.random.default_rng(rows).random(rows).astype(dtype), filled((1,), dtype)
    native.sum_mask(mask, to)
    np.testing.assert_allclose(to, mask.astype(float).sum(), rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("factor_dtype", ["float32", "float64"])
@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_scale_grad(native, dtype, factor_dtype, factor):
    for n in (*kernels.COLUMNS, *kernels.WIDE_COLUMNS):
        grad = store(np.random.default_rng(n).normal(size=n), dtype)
        expected = store(numbers(grad) * np.array(factor, factor_dtype).astype(float), dtype)
        native.scale_grad(grad, np.array([factor], factor_dtype))
        np.testing.assert_allclose(numbers(grad), numbers(expected), rtol=2 * ROUNDING[dtype])
        if factor == 1.0:
            np.testing.assert_array_equal(grad, expected)
