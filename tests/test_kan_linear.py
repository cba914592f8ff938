"""kan_linear against the spec's vectors, its definition, first and second derivatives, and bad input."""

import pytest
import torch
from check import EPS, Case, run, within
from kan_vectors import BASE_GRAD, LAYERS, SECOND, clamped_knots, layer
from torch.autograd import gradcheck, gradgradcheck
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.kan_linear import kan_linear_reference

EXTRAPOLATIONS = ("zero", "linear", "clamp")


@pytest.fixture(params=["native", "reference"])
def chosen(request, need):
    need.backend(request.param)
    with kdfast.use(request.param):
        yield request.param


def random_layer(batch, features, out, intervals, degree, dtype=torch.float64, seed=0, uneven=0.3):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    step = 2 / intervals
    knots = (torch.arange(intervals + 2 * degree + 1, dtype=torch.float64) - degree) * step - 1
    grid = (knots + uneven * step * draw(features, knots.numel())).sort(-1).values
    tensors = [draw(batch, features), draw(out, features, intervals + degree)]
    tensors += [draw(out, features), draw(out, features)]
    return (*(t.to(dtype) for t in tensors), grid.to(dtype))


@pytest.mark.parametrize(("grid", "degree", "spread"), LAYERS)
def test_vectors(chosen, grid, degree, spread):
    total, *sums, first_y, first_dx = LAYERS[grid, degree, spread]
    x, coef, scale, base, knots, upstream = layer(grid, degree, spread)
    inputs = [t.requires_grad_() for t in (x, coef, scale, base)]
    y = KF.kan_linear(x, coef, grid=knots, degree=degree, scale=scale, base_weight=base)
    grads = torch.autograd.grad(y, inputs, upstream)
    got = [(y * upstream).sum(), *(t.abs().sum() for t in (y, *grads))]
    expected = torch.tensor([total, *sums, BASE_GRAD[spread]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack(got), expected, rtol=1e-8, atol=0)
    firsts = torch.cat([y.flatten()[:2], grads[0].flatten()[:2]])
    torch.testing.assert_close(
        firsts, torch.tensor([*first_y, *first_dx], dtype=torch.float64), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("grid", SECOND)
def test_second_derivative_vectors(chosen, grid):
    x, coef, scale, base, knots, upstream = layer(grid, 3, 1.2)
    inputs = [t.requires_grad_() for t in (x, coef, scale, base)]
    y = KF.kan_linear(x, coef, grid=knots, scale=scale, base_weight=base)
    (slope,) = torch.autograd.grad(y, x, upstream, create_graph=True)
    second = (slope * wave((6, 3), 1.0, 0.9)).sum()
    got = [second, *(g.abs().sum() for g in torch.autograd.grad(second, inputs))]
    torch.testing.assert_close(
        torch.stack(got), torch.tensor(SECOND[grid], dtype=torch.float64), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("degree", range(1, 6))
@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
def test_gradcheck(chosen, degree, extrapolation):
    x, coef, scale, base, grid = random_layer(4, 3, 2, 3, degree, seed=degree)
    grid[2] = clamped_knots(degree)[: grid.size(1)].sort().values
    grid[2, -1] = 1.5
    inputs = [t.requires_grad_() for t in (x, coef, scale, base)]

    def layer_of(x, coef, scale, base):
        return KF.kan_linear(
            x, coef, grid=grid, degree=degree, scale=scale, base_weight=base, extrapolation=extrapolation
        )

    assert gradcheck(layer_of, inputs)
    if degree > 1:
        assert gradgradcheck(layer_of, inputs)


def test_a_pde_loss(chosen):
    """Laplacian by nested torch.autograd.grad, against the definition's."""
    x, coef, scale, base, grid = random_layer(5, 2, 1, 4, 4, uneven=0)
    results = []
    for function in (KF.kan_linear, kan_linear_reference):
        point, weight = x.clone().requires_grad_(), coef.clone().requires_grad_()
        y = function(point, weight, grid=grid, degree=4, scale=scale, base_weight=base)
        (slope,) = torch.autograd.grad(y.sum(), point, create_graph=True)
        laplacian = sum(
            torch.autograd.grad(slope[:, i].sum(), point, create_graph=True)[0][:, i] for i in range(2)
        )
        results.append((laplacian, *torch.autograd.grad(laplacian.square().sum(), (point, weight))))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def cases(dtype):
    for batch, features, out, intervals, degree in (
        (1, 1, 1, 1, 1), (3, 2, 1, 5, 3), (0, 2, 3, 5, 3), (130, 5, 17, 5, 3), (33, 9, 70, 5, 3), (257, 3, 64,
        32, 3), (40, 4, 130, 2, 2), (65, 2, 33, 7, 5), (31, 3, 48, 70, 4), (20, 7, 5, 3, 0),
    ):  # fmt: skip
        for extrapolation in EXTRAPOLATIONS:
            x, coef, scale, base, grid = random_layer(
                batch, features, out, intervals, degree, dtype, uneven=0.2
            )

            yield Case(
                f"{batch}x{features}->{out} G{intervals} k{degree} {extrapolation}",
                (x, coef),
                (),
                {
                    "grid": grid,
                    "degree": degree,
                    "scale": scale,
                    "base_weight": base,
                    "extrapolation": extrapolation,
                },
            )
    x, coef, scale, base, grid = random_layer(50, 4, 20, 5, 3, dtype)
    yield Case("plain", (x, coef), (), {"grid": grid})
    yield Case("strided", (x.T.contiguous().T, coef), (), {"grid": grid[:1].expand(4, -1), "scale": scale})
    yield Case("shared grid", (x.reshape(5, 10, 4), coef), (), {"grid": grid[0], "base_weight": base})


@pytest.mark.parametrize("dtype", EPS, ids=str)
def test_against_the_definition(chosen, dtype):
    """check_op, for a result in the inputs' dtype."""
    for case in cases(dtype):
        ours, plain = run(KF.kan_linear, case), run(kan_linear_reference, case)
        truth = run(kan_linear_reference, case, double=True)
        assert ours[0][0].dtype == dtype
        lists = [values + grads for values, grads in (ours, plain, truth)]
        for name, *numbers in zip(("y", "grad x", "grad coef"), *lists, strict=True):
            within(f"{case.name}: {name}", *numbers, EPS[dtype])


PROGRAM = """
import torch
import kdfast.functional as KF
from kdfast.ops.kan_linear import kan_linear_reference
from test_kan_linear import random_layer

*tensors, grid = random_layer(70, 5, 50, 6, 3)
for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
    args = [a.detach().to(dtype).requires_grad_() for a in tensors]
    results = []
    for function in (KF.kan_linear, kan_linear_reference):
        y = function(args[0], args[1], grid=grid.to(dtype), scale=args[2], base_weight=args[3])
        results.append((y, *torch.autograd.grad(y.sin().sum(), args)))
    for got, expected in zip(*results):
        assert (got - expected).norm() / expected.norm() < bound
print("level", torch.ops.kdfast.cpu_level())
"""


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_level(need, level, tmp_path):
    """The same numbers from each instruction level; a process has one level."""
    import os
    import subprocess
    import sys

    need.backend("native")
    here = os.path.dirname(__file__)
    environment = {**os.environ, "KDFAST_CPU_LEVEL": level, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    need.that("but this processor goes up to" not in done.stderr, f"this processor has no {level}")
    assert done.returncode == 0, done.stderr
    assert f"level {('baseline', 'avx2', 'avx512').index(level)}" in done.stdout


def test_same_bits_whatever_the_threads(need):
    need.backend("native")
    x, coef, scale, base, grid = random_layer(9000, 3, 40, 5, 3, torch.float32)
    inputs = [t.requires_grad_() for t in (x, coef, scale, base)]
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = KF.kan_linear(x, coef, grid=grid, scale=scale, base_weight=base)
        results.append((y, *torch.autograd.grad(y.square().sum(), inputs)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_what_is_kept_for_backward(need):
    """At most 24 bytes for each sample and feature, beyond the parameters."""
    need.backend("native")
    x, coef, scale, base, grid = random_layer(512, 16, 8, 5, 3, torch.float32)
    parameters = [t.requires_grad_() for t in (coef, scale, base)]
    kept = {}
    pack = lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes())  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (pack(t), t)[1], lambda t: t):
        KF.kan_linear(x.requires_grad_(), coef, grid=grid, scale=scale, base_weight=base)
    for parameter in (*parameters, grid):
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) <= 24 * x.numel()


def test_infinities_and_nan(chosen):
    _, coef, _, base, grid = random_layer(1, 1, 2, 5, 3, torch.float32)
    x = torch.tensor([[float("inf")], [-float("inf")], [float("nan")]])
    plain = KF.kan_linear(x, coef, grid=grid)
    assert (plain[:2] == 0).all() and plain[2].isnan().all()
    y = KF.kan_linear(x, coef, grid=grid, base_weight=base)
    assert y[0].isinf().all() and y[1:].isnan().all()  # torch's silu(-inf) is NaN too


def test_transforms_and_opcheck(need):
    need.backend("native")
    x, coef, scale, base, grid = random_layer(6, 3, 4, 5, 3)
    options = {"grid": grid, "scale": scale, "base_weight": base}
    expected = kan_linear_reference(x, coef, **options)
    compiled = torch.compile(lambda x: KF.kan_linear(x, coef, **options), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    loss = lambda f: lambda x: f(x, coef, **options).square().sum()  # noqa: E731
    got = torch.func.grad(loss(KF.kan_linear))(x)
    torch.testing.assert_close(got, torch.func.grad(loss(kan_linear_reference))(x))
    leaf = x.clone().requires_grad_()
    compiled(leaf).square().sum().backward()
    torch.testing.assert_close(leaf.grad, got)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(KF.kan_linear(x, coef, **options), KF.kan_linear(x, coef, **options))
        assert KF.kan_linear(x, coef, **options).dtype == torch.float64
    ops = torch.ops.kdfast
    torch.library.opcheck(ops.kan_linear.default, (x, coef, grid, 3, scale, base, 0))
    for wanted in (1, 2, 3):
        arguments = (torch.randn(6, 4).double(), x, coef, grid, 3, scale, None, 0, wanted)
        torch.library.opcheck(ops.kan_linear_backward.default, arguments)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"coef": torch.zeros(4, 3, 7)}, ValueError, "coef must be"),
        ({"coef": torch.zeros(4, 3, 8).int()}, TypeError, "coef"),
        ({"scale": torch.zeros(3, 4)}, ValueError, "scale must be"),
        ({"base_weight": torch.zeros(4)}, ValueError, "base_weight must be"),
        ({"base": "relu"}, ValueError, "base must be"),
        ({"extrapolation": "constant"}, ValueError, "extrapolation must be"),
        ({"grid": torch.zeros(12)}, ValueError, "constant"),
        ({"grid": torch.arange(12.0).flip(0)}, ValueError, "sorted"),
        ({"grid": torch.arange(12.0).index_fill(0, torch.tensor([3]), float("nan"))}, ValueError, "NaN"),
        ({"grid": torch.arange(7.0)}, ValueError, "short"),
        ({"x": torch.zeros(2, 5)}, ValueError, "coef must be"),
        ({"x": [1.0]}, TypeError, "x must be a tensor"),
        ({"degree": 9}, ValueError, "degree"),
    ],
)
def test_bad_input(chosen, change, error, word):
    given = {"x": torch.zeros(2, 3), "coef": torch.zeros(4, 3, 8), "grid": torch.arange(12.0), **change}
    with pytest.raises(error, match=word):
        KF.kan_linear(given.pop("x"), given.pop("coef"), **given)
