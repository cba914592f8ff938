"""The Triton forms of the B-spline ops against their definitions: Triton's interpreter, or a GPU."""

import pytest
import torch
from kan_vectors import LAYERS, layer, layer_grid

import kdfast
import kdfast.functional as KF
from kdfast.ops.bspline_basis import basis_rows


def on(backend: str, function, tensors, *rest, **options):
    """Results and gradients of the tensors that are there, under random but equal upstream gradients."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    with kdfast.use(backend):
        results = function(*leaves, *rest, **options)
        results = (results,) if isinstance(results, torch.Tensor) else results
        torch.manual_seed(1)
        loss = sum(
            (r.double() * torch.randn(r.shape, dtype=torch.float64).to(r.device)).sum() for r in results
        )
        grads = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])
    return [*(r.detach() for r in results), *grads]


def agree(function, tensors, *rest, rtol: float = 1e-10, **options) -> None:
    truth, got = (on(backend, function, tensors, *rest, **options) for backend in ("reference", "triton"))
    for a, b in zip(truth, got, strict=True):
        torch.testing.assert_close(b, a, rtol=rtol, atol=rtol, equal_nan=True)


def linear(x, coef, scale, base_weight, **options):
    return KF.kan_linear(x, coef, scale=scale, base_weight=base_weight, **options)


def stats(x, coef, scale, base_weight, **options):
    return KF.kan_edge_stats(x, coef, scale=scale, base_weight=base_weight, **options)


def made(device: str, samples: int, out: int, grid: torch.Tensor, degree: int, edges: bool = True):
    """x at knots, between, beyond and far outside; weights."""
    torch.manual_seed(samples + out)
    x = torch.randn(samples, grid.size(0), dtype=torch.float64) * 1.2
    special = torch.cat([grid[0], torch.tensor([3.0, -3.0])])
    x[: len(special), 0] = special[:samples]
    shape = out, grid.size(0)
    coef = torch.randn(*shape, grid.size(1) - degree - 1, dtype=torch.float64)
    weights = [torch.randn(shape, dtype=torch.float64) if edges else None for _ in range(2)]
    return [t if t is None else t.to(device) for t in (x, coef, *weights)]


@pytest.mark.parametrize(("degree", "name"), [(0, "N"), (1, "R"), (2, "N"), (3, "R"), (4, "N"), (5, "R")])
@pytest.mark.parametrize("extrapolation", range(3))
def test_basis_and_its_derivatives(triton_device, degree, name, extrapolation):
    grid = layer_grid(name, degree).to(triton_device)
    x = made(triton_device, 40, 1, grid.cpu(), degree)[0]
    x[30, 0], x[31, 1], x[32, 2] = float("nan"), float("inf"), -float("inf")
    for order in (0, 1, degree + 1):
        truth = basis_rows(x, grid, degree, order, extrapolation, "reference")
        got = basis_rows(x, grid, degree, order, extrapolation, "triton")
        torch.testing.assert_close(got, truth, rtol=1e-11, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("plan", ["dense", "local"])
@pytest.mark.parametrize(("degree", "name", "extrapolation"), [
    (0, "N", "zero"), (1, "R", "linear"), (3, "N", "clamp"),
])  # fmt: skip
def test_linear_by_both_plans(triton_device, plan, degree, name, extrapolation, monkeypatch):
    from kdfast.triton_kernels import kan

    most = 99 if plan == "dense" else 0
    monkeypatch.setattr(kan, "DENSE_UP_TO", dict.fromkeys(kan.DENSE_UP_TO, most))
    grid = layer_grid(name, degree).to(triton_device)
    options = {"grid": grid, "degree": degree, "extrapolation": extrapolation}
    agree(linear, made(triton_device, 40 if plan == "dense" else 9, 5, grid.cpu(), degree), **options)
    if degree == 3:
        agree(linear, made(triton_device, 1, 70, grid.cpu(), degree, edges=False), **options)


@pytest.mark.parametrize(("degree", "name", "extrapolation"), [
    (0, "N", "clamp"), (1, "R", "zero"), (3, "N", "linear"),
])  # fmt: skip
def test_edge_statistics(triton_device, degree, name, extrapolation):
    grid = layer_grid(name, degree).to(triton_device)
    options = {"grid": grid, "degree": degree, "extrapolation": extrapolation}
    agree(stats, made(triton_device, 40, 5, grid.cpu(), degree), **options)
    if degree == 1:
        agree(stats, made(triton_device, 1, 34, grid.cpu(), degree, edges=False), **options)


@pytest.mark.parametrize("case", [("U", 3, 1.2), ("R", 2, 1.2)])
def test_published_layers(triton_device, case):
    x, coef, scale, base, grid, up = (t.to(triton_device) for t in layer(*case))
    with kdfast.use("triton"):
        y = KF.kan_linear(x, coef, grid=grid, degree=case[1], scale=scale, base_weight=base)
    value, size, *_ = LAYERS[case]
    assert (y * up).sum().item() == pytest.approx(value, rel=1e-8)
    assert y.abs().sum().item() == pytest.approx(size, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_and_strides(triton_device, dtype):
    grid = layer_grid("U", 3).float().to(triton_device)
    x, *weights = (t.float() for t in made(triton_device, 40, 20, grid.cpu(), 3))
    x = x.to(dtype).T.contiguous().T
    agree(linear, (x, *weights), grid=grid, rtol=1e-5 if dtype == torch.float32 else 2e-2)
    agree(stats, (x, *weights), grid=grid, rtol=1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_no_samples(triton_device, shape):
    grid = layer_grid("U", 3).to(triton_device)
    _, *weights = made(triton_device, 1, 4, grid.cpu(), 3)
    x = torch.empty(shape, dtype=torch.float64, device=triton_device)
    agree(linear, (x, *weights), grid=grid)
    agree(stats, (x, *weights), grid=grid)


def test_second_derivatives(triton_device):
    grid = layer_grid("N", 3).to(triton_device)
    x, coef, *_ = made(triton_device, 2, 1, grid.cpu(), 3)
    x = (x * 0.3).requires_grad_()

    def function(x, coef):
        return KF.kan_linear(x, coef, grid=grid)

    with kdfast.use("triton"):
        assert torch.autograd.gradgradcheck(function, (x, coef.requires_grad_()), fast_mode=True)
