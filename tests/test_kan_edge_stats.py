"""kan_edge_stats against the spec's vectors, the definition with phi in full, gradients, and memory."""

import pytest
import torch
from check import EPS, Case, check_op
from kan_vectors import EDGES, layer
from test_kan_linear import EXTRAPOLATIONS, random_layer
from torch.autograd import gradcheck

import kdfast
import kdfast.functional as KF
from kdfast.ops.kan_edge_stats import kan_edge_stats_reference


@pytest.fixture(params=["native", "reference"])
def chosen(request, need):
    need.backend(request.param)
    with kdfast.use(request.param):
        yield request.param


@pytest.mark.parametrize("grid", EDGES)
def test_vectors(chosen, grid):
    x, coef, scale, base, knots, _ = layer(grid, 3, 1.2)
    absolute, square, variance = KF.kan_edge_stats(x, coef, grid=knots, scale=scale, base_weight=base)
    sums, absolutes, squares = (torch.tensor(v, dtype=torch.float64) for v in EDGES[grid])
    for got, expected in ((absolute, absolutes), (square, squares)):
        torch.testing.assert_close(torch.cat([got.sum()[None], got[0]]) * 6, expected, rtol=1e-8, atol=0)
    torch.testing.assert_close(variance[0], (squares[1:] - sums[1:] ** 2 / 6) / 5, rtol=1e-8, atol=1e-12)


def cases(dtype):
    for batch, features, out, intervals, degree in (
        (1, 2, 3, 5, 3),
        (7, 1, 1, 1, 1),
        (700, 3, 40, 5, 3),
        (90, 2, 70, 9, 2),
    ):
        for extrapolation in EXTRAPOLATIONS:
            x, coef, scale, base, grid = random_layer(batch, features, out, intervals, degree, dtype)
            options = {"grid": grid, "degree": degree, "extrapolation": extrapolation}
            name = f"{batch}x{features}->{out} {extrapolation}"
            yield Case(name, (x, coef, scale, base), (), options)


@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_against_the_definition(chosen, dtype):
    def with_edges(function):
        return lambda x, coef, scale, base, **options: function(
            x, coef, scale=scale, base_weight=base, **options
        )

    count = check_op(with_edges(KF.kan_edge_stats), with_edges(kan_edge_stats_reference), cases(dtype))
    assert count == 12


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_gradcheck(chosen, degree):
    x, coef, scale, base, grid = random_layer(5, 2, 3, 4, degree, seed=3)
    inputs = [t.requires_grad_() for t in (x, coef, scale, base)]

    def run(x, coef, scale, base):
        return KF.kan_edge_stats(x, coef, grid=grid, degree=degree, scale=scale, base_weight=base)

    assert gradcheck(run, inputs)


def test_the_variance_does_not_cancel(chosen):
    """phi = 1000 + small: the naive difference of sums is wrong in the first digit."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2000, 1, generator=generator) * 2 - 1
    coef = (1000 + 0.05 * torch.randn(3, 1, 8, generator=generator)).float()
    grid = (torch.arange(-3, 9) * 0.4 - 1).float()
    variance = KF.kan_edge_stats(x, coef, grid=grid)[2]
    truth = kan_edge_stats_reference(x.double(), coef.double(), grid=grid.double())[2]
    torch.testing.assert_close(variance.double(), truth, rtol=0.05, atol=0)


def test_no_samples_and_one(chosen):
    x, coef, scale, base, grid = random_layer(1, 2, 3, 5, 3)
    coef.requires_grad_()
    assert (KF.kan_edge_stats(x, coef, grid=grid)[2] == 0).all()
    nothing = KF.kan_edge_stats(x[:0], coef, grid=grid)
    assert all((t == 0).all() and t.shape == (3, 2) for t in nothing)
    sum(t.sum() for t in nothing).backward()
    assert (coef.grad == 0).all()


def test_nothing_of_the_size_of_phi(need):
    """Backward too: the largest tensor allocated is far below samples x outputs x inputs."""
    need.backend("native")
    x, coef, scale, base, grid = random_layer(1024, 16, 64, 5, 3, torch.float32)
    inputs = [t.requires_grad_() for t in (x, coef, scale, base)]
    with torch.profiler.profile(
        profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]
    ) as profile:
        out = KF.kan_edge_stats(x, coef, grid=grid, scale=scale, base_weight=base)
        torch.autograd.grad(sum(t.sum() for t in out), inputs)
    sizes = [
        event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    assert sizes and max(sizes) < 1024 * 64 * 16 * 4 / 8


def test_compile_and_opcheck(need):
    need.backend("native")
    x, coef, scale, base, grid = random_layer(6, 3, 4, 5, 3)
    options = {"grid": grid, "scale": scale, "base_weight": base}
    compiled = torch.compile(
        lambda x: KF.kan_edge_stats(x, coef, **options), fullgraph=True, backend="aot_eager"
    )
    for got, expected in zip(compiled(x), kan_edge_stats_reference(x, coef, **options), strict=True):
        torch.testing.assert_close(got, expected)
    ops = torch.ops.kdfast
    torch.library.opcheck(ops.kan_edge_stats.default, (x, coef, grid, 3, scale, base, 0))
    edge = torch.randn(4, 3, dtype=torch.float64)
    arguments = (edge, edge, edge, edge, x, coef, grid, 3, None, base, 0)
    torch.library.opcheck(ops.kan_edge_stats_backward.default, arguments)


def test_second_derivatives_are_refused(need):
    need.backend("native")
    x, coef, _, _, grid = random_layer(4, 2, 3, 5, 3)
    (grad,) = torch.autograd.grad(
        KF.kan_edge_stats(x.requires_grad_(), coef, grid=grid)[1].sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.sum().backward()
