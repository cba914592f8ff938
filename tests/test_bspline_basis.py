"""bspline_basis against SciPy, the spec's vectors, its derivatives, and bad input."""

import numpy as np
import pytest
import torch
from kan_vectors import clamped_knots, efficient_kan_knots
from torch.autograd import gradcheck, gradgradcheck

import kdfast
import kdfast.functional as KF
from kdfast.ops.bspline_basis import bspline_basis_reference

UNIFORM = [0.5 * (m - 3) - 1 for m in range(11)]


def uniform(degree: int) -> torch.Tensor:
    return 0.5 * (torch.arange(4 + 2 * degree + 1, dtype=torch.float64) - degree) - 1


@pytest.fixture(params=["native", "reference"])
def chosen(request, need):
    need.backend(request.param)
    with kdfast.use(request.param):
        yield request.param


@pytest.mark.parametrize(
    ("x", "degree", "first", "values"),
    [
        (-1.75, 3, 0, (0.4791666667, 0.02083333333)),
        (-1.2, 2, 0, (0.74, 0.18)),
        (-1.0, 3, 0, (0.1666666667, 0.6666666667, 0.1666666667)),
        (-0.3, 3, 1, (0.036, 0.5386666667, 0.4146666667, 0.01066666667)),
        (0.4, 1, 2, (0.2, 0.8)),
        (0.99, 3, 3, (1.333333333e-06, 0.1768626667, 0.6662706667, 0.1568653333)),
        (1.4, 3, 4, (0.001333333333, 0.2826666667, 0.6306666667)),
        (1.75, 2, 5, (0.125,)),
        (2.5, 3, 0, ()),
        (-3.5, 3, 0, ()),
    ],
)
def test_vectors_on_a_uniform_grid(chosen, x, degree, first, values):
    expected = torch.zeros(4 + degree, dtype=torch.float64)
    expected[first : first + len(values)] = torch.tensor(values, dtype=torch.float64)
    got = KF.bspline_basis(torch.tensor([x], dtype=torch.float64), uniform(degree), degree)[0]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("x", "first", "values", "slopes"),
    [
        (-1.0, 0, (1.0,), (-6.0, 6.0)),
        (-0.75, 0, (0.125, 0.59375, 0.25, 0.03125), (-1.5, -0.375, 1.5, 0.375)),
        (-0.1, 1, (0.002, 0.052, 0.69, 0.256), (-0.06, -0.96, -0.9, 1.92)),
        (0.0, 3, (0.5, 0.5), (-3.0, 3.0)),
        (0.9, 4, (0.002, 0.052, 0.434, 0.512), (-0.06, -0.96, -2.82, 3.84)),
        (1.0, 0, (), ()),
        (1.5, 0, (), ()),
    ],
)
def test_vectors_on_repeated_knots(chosen, x, first, values, slopes):
    point = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    basis = KF.bspline_basis(point, clamped_knots(3), 3)[0]
    slope = torch.stack([torch.autograd.grad(b, point, retain_graph=True)[0][0] for b in basis])
    for got, numbers in ((basis, values), (slope, slopes)):
        expected = torch.zeros(8, dtype=torch.float64)
        expected[first : first + len(numbers)] = torch.tensor(numbers, dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("degree", range(6))
@pytest.mark.parametrize("kind", ["uniform", "uneven", "clamped", "long"])
def test_agrees_with_scipy(chosen, need, degree, kind):
    need.module("scipy")
    from scipy.interpolate import BSpline

    generator = torch.Generator().manual_seed(degree)
    knots = {
        "uniform": lambda: uniform(degree),
        "uneven": lambda: torch.rand(14, generator=generator, dtype=torch.float64).sort().values * 3 - 1.5,
        "clamped": lambda: clamped_knots(degree),
        "long": lambda: torch.linspace(-2, 2, 120, dtype=torch.float64),
    }[kind]()
    x = torch.rand(200, 1, generator=generator, dtype=torch.float64) * 5 - 2.5
    x[: knots.numel(), 0] = knots  # at the knots themselves
    got = KF.bspline_basis(x, knots, degree)[:, 0]
    bases = knots.numel() - degree - 1
    # Outside [g_k, g_{n-1-k}) SciPy does not evaluate the extension: knots are repeated there to make it
    # interior.
    padded = np.concatenate([[knots[0] - 1] * degree, knots, [knots[-1] + 1] * degree])
    expected = np.zeros((200, bases))
    inside = (x[:, 0] >= knots[0]) & (x[:, 0] < knots[-1])
    for m in range(bases):
        coefficients = np.zeros(len(padded) - degree - 1)
        coefficients[m + degree] = 1
        expected[inside, m] = BSpline(padded, coefficients, degree)(x[inside, 0].numpy())
    assert np.abs(got.numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("degree", range(1, 6))
@pytest.mark.parametrize("kind", ["uniform", "clamped"])
def test_derivatives_of_any_order(chosen, degree, kind):
    knots = uniform(degree) if kind == "uniform" else clamped_knots(degree)
    x = torch.linspace(-1.3, 1.37, 23, dtype=torch.float64).reshape(-1, 1).requires_grad_()
    assert gradcheck(lambda x: KF.bspline_basis(x, knots, degree), (x,))
    if degree > 1:
        assert gradgradcheck(lambda x: KF.bspline_basis(x, knots, degree), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_sum_to_one(chosen, dtype):
    x = (torch.rand(50, 3) * 2 - 1).to(dtype) * 0.99
    basis = KF.bspline_basis(x, efficient_kan_knots().float(), 3)
    assert basis.dtype == dtype and basis.shape == (50, 3, 8)
    truth = bspline_basis_reference(x.double(), efficient_kan_knots(), 3)
    eps = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    torch.testing.assert_close(basis.double(), truth, rtol=eps, atol=eps / 10)


def test_outside_and_special_values(chosen):
    x = torch.tensor([[float("inf")], [-float("inf")], [float("nan")], [2.2000001]])
    basis = KF.bspline_basis(x, efficient_kan_knots().float(), 3)
    assert (basis[[0, 1, 3]] == 0).all() and basis[2].isnan().all()
    point = torch.tensor([5.0], requires_grad=True)
    KF.bspline_basis(point, efficient_kan_knots().float(), 3).sum().backward()
    assert point.grad == 0


def test_shapes_and_strides(chosen):
    grid = torch.stack([uniform(3) + 0.01 * i for i in range(4)])
    x = torch.randn(5, 8, 3, dtype=torch.float64)[:, ::2].transpose(1, 2)
    basis = KF.bspline_basis(x, grid, 3)
    assert basis.shape == (5, 3, 4, 7)
    assert torch.equal(basis, KF.bspline_basis(x.contiguous(), grid, 3))
    assert KF.bspline_basis(x[:0], grid, 3).shape == (0, 3, 4, 7)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda g: g.flip(0), ValueError, "sorted"),
        (lambda g: g * 0, ValueError, "constant"),
        (lambda g: g.index_fill(0, torch.tensor([4]), float("nan")), ValueError, "NaN"),
        (lambda g: g[:7], ValueError, "short"),
        (lambda g: g.long(), TypeError, "grid"),
        (lambda g: g.expand(3, -1), ValueError, "grid must be"),
        (lambda g: "knots", TypeError, "tensor"),
    ],
)
def test_bad_grids(chosen, change, error, word):
    with pytest.raises(error, match=word):
        KF.bspline_basis(torch.zeros(2, 1), change(torch.tensor(UNIFORM)), 3)


def test_bad_degree_and_points(chosen):
    grid = torch.tensor(UNIFORM)
    for degree, error in ((6, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="degree"):
            KF.bspline_basis(torch.zeros(2, 1), grid, degree)
    with pytest.raises(TypeError, match="x must be"):
        KF.bspline_basis(torch.zeros(2, 1).long(), grid, 3)
    with pytest.raises(ValueError, match="x must have"):
        KF.bspline_basis(torch.tensor(1.0), grid, 3)


def test_opcheck_and_compile(need):
    need.backend("native")
    x, grid = torch.randn(5, 2, dtype=torch.float64), uniform(3).expand(2, -1).contiguous()
    torch.library.opcheck(torch.ops.kdfast.bspline_basis.default, (x, grid, 3, 0, 0))
    compiled = torch.compile(lambda x: KF.bspline_basis(x, grid, 3), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), KF.bspline_basis(x, grid, 3))
    with pytest.raises(ValueError, match="sorted"):
        torch.compile(lambda x: KF.bspline_basis(x, grid.flip(1), 3), backend="aot_eager")(x)
