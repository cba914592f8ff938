"""The KAN modules: efficient-kan's formula and state_dicts, grid updates, regularisers, pickling, export."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from kan_vectors import layer_grid
from torch import Tensor
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.nn import KAN, KANConv2d, KANLinear


def efficient_kan(x: Tensor, state: dict[str, Tensor], order: int = 3) -> Tensor:
    """efficient-kan's layer, written from its formula: bases by the recursion over a third axis, then two
    products."""
    grid, points = state["grid"], x.unsqueeze(-1)
    bases = ((points >= grid[:, :-1]) & (points < grid[:, 1:])).to(x.dtype)
    for p in range(1, order + 1):
        left = (points - grid[:, : -p - 1]) / (grid[:, p:-1] - grid[:, : -p - 1])
        right = (grid[:, p + 1 :] - points) / (grid[:, p + 1 :] - grid[:, 1:-p])
        bases = left * bases[..., :-1] + right * bases[..., 1:]
    weight = state["spline_weight"]
    if "spline_scaler" in state:
        weight = weight * state["spline_scaler"].unsqueeze(-1)
    return F.silu(x) @ state["base_weight"].T + bases.flatten(1) @ weight.flatten(1).T


def efficient_state(features: int, out: int, size: int, order: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    step = 2 / size
    return {
        "base_weight": torch.randn(out, features, generator=generator),
        "spline_weight": torch.randn(out, features, size + order, generator=generator),
        "spline_scaler": torch.randn(out, features, generator=generator),
        "grid": (torch.arange(-order, size + order + 1) * step - 1).expand(features, -1).contiguous(),
    }


@pytest.mark.parametrize(("size", "order"), [(5, 3), (8, 2), (3, 1), (32, 3)])
def test_an_efficient_kan_state_dict_gives_its_output(size, order):
    state = efficient_state(7, 9, size, order)
    layer = KANLinear(7, 9, grid_size=size, degree=order)
    assert torch.equal(layer.grid, state["grid"])
    assert layer.load_state_dict(state).missing_keys == []
    x = torch.randn(100, 7, generator=torch.Generator().manual_seed(1)) * 1.3
    torch.testing.assert_close(layer(x), efficient_kan(x, state, order), rtol=1e-5, atol=1e-5)
    double = {name: t.double() for name, t in state.items()}
    truth = efficient_kan(x.double(), double, order)
    torch.testing.assert_close(layer.double()(x.double()), truth, rtol=1e-12, atol=1e-12)


def test_without_scale():
    layer = KANLinear(3, 2, scale=False)
    assert "spline_scaler" not in layer.state_dict()
    x = torch.randn(5, 4, 3)
    expected = efficient_kan(x.reshape(-1, 3), layer.state_dict()).reshape(5, 4, 2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degree", range(6))
def test_new_layers_start_small_and_learn(degree):
    torch.manual_seed(degree)
    layer = KANLinear(4, 3, degree=degree)
    assert layer.spline_weight.abs().max() < 1
    x = torch.rand(64, 4) * 2 - 1
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_update_grid_vectors():
    layer = KANLinear(2, 4, grid_size=4).double()
    x, coef, scale = wave((16, 2), 1.2, 0.3), wave((4, 2, 7), 0.5, 0.7), wave((4, 2), 0.8, 1.1)
    layer.load_state_dict({
        "grid": layer_grid("U", 3)[:2], "spline_weight": coef, "spline_scaler": scale, "base_weight":
        torch.zeros(4, 2)
    })  # fmt: skip
    before = layer(x)
    layer.update_grid(x)
    knots = [-2.981928672, -2.387928887, -1.793929102, -1.199929317, -1.017864893, 0.1459238071, 0.7610543738,
             1.156469823, 1.750469607, 2.344469392, 2.938469177]  # fmt: skip
    torch.testing.assert_close(layer.grid[0], torch.tensor(knots, dtype=torch.float64), rtol=1e-8, atol=1e-8)
    refitted = [-0.393533516, 0.4624288467, -0.08608744709, -0.6841527699, -0.08751520049, 0.3655066181,
                0.5184004095]  # fmt: skip
    weight = layer.spline_weight.detach()
    torch.testing.assert_close(
        weight[0, 0], torch.tensor(refitted, dtype=torch.float64), rtol=1e-7, atol=1e-8
    )
    assert weight.abs().sum().item() == pytest.approx(20.32885202, rel=1e-7)
    assert before.abs().sum().item() == pytest.approx(14.17260597, rel=1e-8)
    assert layer(x).abs().sum().item() == pytest.approx(14.17580375, rel=1e-7)


def test_update_grid_keeps_a_function_that_the_new_grid_can_hold():
    """A cubic is a spline on any knots; and a zero scaler does no harm."""
    torch.manual_seed(0)
    layer = KANLinear(3, 2, extrapolation="linear").double()
    points = torch.linspace(-1, 1, 400, dtype=torch.float64).unsqueeze(1).expand(-1, 3)
    from kdfast.nn._kan_grid import fit

    cubic = (points**3 - 0.5 * points).T.unsqueeze(-1).expand(-1, -1, 2)
    with torch.no_grad():
        layer.spline_weight.copy_((fit(points, layer.grid, 3, "linear") @ cubic).permute(2, 0, 1))
        layer.spline_scaler[0, 0] = 0
    x = torch.rand(500, 3, dtype=torch.float64) * 1.9 - 0.95
    before = layer(x)
    layer.update_grid(x, margin=0.0)
    torch.testing.assert_close(layer(x), before, rtol=1e-6, atol=1e-8)


def test_regularization_vectors():
    for bases, total, entropy, slopes in (
        (7, 3.807348486, 2.482290555, 12.01665748),
        (8, 3.842827061, 2.481816573, 12.01938225),
    ):
        layer = KANLinear(3, 4, grid_size=bases - 3).double()
        with torch.no_grad():
            layer.spline_weight.copy_(wave((4, 3, bases), 0.5, 0.7))
        assert layer.regularization_loss(1, 0).item() == pytest.approx(total, rel=1e-9)
        assert layer.regularization_loss(0, 1).item() == pytest.approx(entropy, rel=1e-9)
        layer.regularization_loss().backward()
        assert layer.spline_weight.grad.abs().sum().item() == pytest.approx(slopes, rel=1e-8)


def test_activation_regularization_vectors():
    """pykan's, from edge statistics: l1 + 2 (row + column entropy)."""
    layer = KANLinear(3, 4, grid_size=4).double()
    layer.load_state_dict({
        "grid": layer_grid("U", 3), "spline_weight": wave((4, 3, 7), 0.5, 0.7),
        "spline_scaler": wave((4, 3), 0.8, 1.1), "base_weight": wave((4, 3), 0.6, 1.9),
    })  # fmt: skip
    x = wave((6, 3), 1.2, 0.3)
    assert layer.regularization_loss(1, 0, x=x).item() == pytest.approx(2.702919579, rel=1e-8)
    assert layer.regularization_loss(0, 1, x=x).item() == pytest.approx(1.0560195 + 1.32791789, rel=1e-8)
    assert layer.regularization_loss(1, 2, x=x).item() == pytest.approx(7.470794358, rel=1e-8)
    loss = layer.regularization_loss(x=x.requires_grad_())
    loss.backward()
    assert x.grad.isfinite().all() and layer.base_weight.grad.isfinite().all()


def test_regularization_of_dead_edges_is_finite():
    layer = KANLinear(2, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter[0, 0] = 0
    for loss in (layer.regularization_loss(), layer.regularization_loss(x=torch.randn(9, 2))):
        loss.backward()
        assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_stack():
    torch.manual_seed(0)
    model = KAN([6, 5, 2], grid_size=4, degree=2, extrapolation="clamp")
    x = torch.randn(40, 6)
    assert model(x).shape == (40, 2) and len(model) == 2 and model[0].degree == 2
    model.update_grid(x)
    assert model.regularization_loss().isfinite() and model.regularization_loss(x=x).isfinite()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_fits_a_function():
    torch.manual_seed(0)
    model = KAN([2, 3, 1])
    x = torch.rand(256, 2) * 2 - 1
    y = torch.sin(3 * x[:, :1]) * x[:, 1:]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    before = closure().item()
    optimizer.step(closure)
    assert closure().item() < 0.02 * before


def test_convolution():
    torch.manual_seed(0)
    layer = KANConv2d(2, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), grid_size=4)
    x = torch.randn(2, 2, 7, 9)
    shape = torch.nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2))(x).shape
    y = layer(x)
    assert y.shape == shape
    padded = F.pad(x, (1, 1, 1, 1))
    patch = torch.stack([padded[1, :, 2 + i, 4 + 2 * j] for i in range(3) for j in range(2)], 1).flatten()
    torch.testing.assert_close(y[1, :, 1, 4], layer.edges(patch), rtol=1e-5, atol=1e-6)
    layer.update_grid(x)
    assert layer.regularization_loss(x=x).isfinite()
    with pytest.raises(ValueError, match="x must be"):
        layer(x[0])


def test_agrees_with_the_function():
    layer = KANLinear(3, 2, extrapolation="linear")
    x = torch.randn(20, 3) * 3
    expected = KF.kan_linear(
        x, layer.spline_weight, grid=layer.grid, scale=layer.spline_scaler, base_weight=layer.base_weight,
        extrapolation="linear",
    )  # fmt: skip
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"in_features": 0}, ValueError, "in_features"),
        ({"out_features": 2.0}, TypeError, "out_features"),
        ({"grid_size": 0}, ValueError, "grid_size"),
        ({"degree": 7}, ValueError, "degree"),
        ({"grid_range": (1.0, -1.0)}, ValueError, "grid_range"),
        ({"grid_range": (1.0, float("nan"))}, ValueError, "grid_range"),
        ({"grid_range": 1.0}, TypeError, "grid_range"),
        ({"base": "relu"}, ValueError, "base"),
        ({"extrapolation": "periodic"}, ValueError, "extrapolation"),
    ],
)
def test_bad_options(options, error, word):
    with pytest.raises(error, match=word):
        KANLinear(**{"in_features": 3, "out_features": 2, **options})


def test_bad_grids_are_not_loaded_and_bad_samples_not_used():
    layer = KANLinear(2, 2)
    for bad in (layer.grid.flip(1), layer.grid * 0, layer.grid * float("nan")):
        with pytest.raises(ValueError, match="grid"):
            layer.load_state_dict({**layer.state_dict(), "grid": bad})
    samples = torch.zeros(4, 3), torch.full((4, 2), float("nan")), torch.zeros(0, 2)
    for x, word in zip(samples, ("x must be", "finite", "one"), strict=True):
        with pytest.raises(ValueError, match=word):
            layer.update_grid(x)
    for options, error in (
        ({"margin": "a"}, TypeError),
        ({"margin": -1.0}, ValueError),
        ({"grid_eps": 2.0}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(options))):
            layer.update_grid(torch.rand(4, 2), **options)
    with pytest.raises(ValueError, match="x must be"):
        layer.regularization_loss(x=torch.rand(4, 3))
    for sizes, error in (([3], ValueError), (3, TypeError), ("ab", TypeError), ([3, 2.0], TypeError)):
        with pytest.raises(error, match="sizes"):
            KAN(sizes)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kernel_size": 0}, ValueError),
        ({"kernel_size": "3"}, TypeError),
        ({"kernel_size": (3, 3, 3)}, ValueError),
        ({"stride": 0}, ValueError),
        ({"padding": -1}, ValueError),
        ({"dilation": 1.5}, TypeError),
    ],
)
def test_bad_windows(options, error):
    with pytest.raises(error, match=next(iter(options))):
        KANConv2d(3, 4, **{"kernel_size": 3, **options})


def test_an_image_smaller_than_the_kernel():
    with pytest.raises(ValueError, match="kernel"):
        KANConv2d(3, 4, 5)(torch.rand(2, 3, 3, 3))


def test_second_derivatives_by_reverse_mode_are_those_of_the_definition():
    model, x = KAN([3, 4, 2]).double(), torch.rand(3, dtype=torch.float64)
    function = lambda x: model(x).sum()  # noqa: E731
    found = torch.func.jacrev(torch.func.jacrev(function))(x)
    with kdfast.use("reference"):
        torch.testing.assert_close(found, torch.func.hessian(function)(x))
