"""The CUDA kernels of the B-spline ops on the emulated device, against their definitions in PyTorch."""

import numpy as np
import pytest
import torch
from native.kernels import ORDERS
from test_kan_linear import random_layer

from kdfast.ops._bspline import EXTRAPOLATIONS, basis_definition
from kdfast.ops.kan_edge_stats import kan_edge_stats_reference
from kdfast.ops.kan_linear import kan_linear_reference

BOUND = {torch.float32: 2e-5, torch.float64: 1e-12}
SHAPES = [
    (5, 2, 3, 5, 3),
    (35, 18, 70, 4, 1),
    (3, 1, 17, 40, 2),
    (18, 3, 65, 1, 5),
    (4, 2, 2, 3, 0),
    (130, 2, 5, 6, 4),
]


@pytest.fixture(params=ORDERS, ids=lambda order: f"{order[0]}{order[1]}")
def device(request, native):
    native.set_device(order=request.param[0], seed=request.param[1])
    return native


def nan_filled(*shape, dtype):
    return np.full(shape, np.nan, dtype=str(dtype).split(".")[1])


def near(got, expected, dtype):
    expected = expected.detach().numpy()
    assert np.abs(got - expected).max(initial=0) <= BOUND[dtype] * (1 + np.abs(expected).max(initial=0))


@pytest.mark.parametrize("extrapolation", EXTRAPOLATIONS)
@pytest.mark.parametrize("degree", range(6))
def test_basis(native, degree, extrapolation):
    x, _, _, _, grid = random_layer(40, 2, 1, 4, degree)
    x[0, 0], x[1, 0], x[2, 0] = float("inf"), grid[0, -1], grid[0, 0]
    if extrapolation == "linear":
        x[0, 0] = 7.0
    for derivative in range(degree + 2):
        out = nan_filled(40, 2, 4 + degree, dtype=x.dtype)
        code = EXTRAPOLATIONS[extrapolation]
        arrays = {"x": x.numpy(), "grid": grid.numpy(), "out": out}
        native.bspline_basis(arrays, degree=degree, derivative=derivative, extrapolation=code)
        near(out, basis_definition(x, grid, degree, derivative, code), x.dtype)


def arrays_of(layer, dtype, with_edges):
    x, coef, scale, base, grid = layer
    arrays = {"x": x, "coef": coef, "grid": grid, "scale": scale, "base_weight": base}
    if not with_edges:
        arrays["scale"] = arrays["base_weight"] = None
    return {name: None if t is None else t.detach().numpy() for name, t in arrays.items()}


def padded(out, dtype):
    chunk = 64 // dtype.itemsize
    return -(-out // chunk) * chunk


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("with_edges", [True, False])
def test_linear(device, shape, dtype, with_edges):
    samples, features, out, intervals, degree = shape
    layer = random_layer(*shape, dtype)
    inputs = [t.requires_grad_() for t in layer[:4]]
    extrapolation = list(EXTRAPOLATIONS)[samples % 3]
    options = {"degree": degree, "extrapolation": EXTRAPOLATIONS[extrapolation]}
    edges = {"scale": inputs[2], "base_weight": inputs[3]} if with_edges else {}
    y = kan_linear_reference(
        inputs[0], inputs[1], grid=layer[4], degree=degree, extrapolation=extrapolation, **edges
    )
    upstream = torch.randn(samples, out, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
        dtype
    )
    wanted = inputs[: 4 if with_edges else 2]
    grads = torch.autograd.grad(y, wanted, upstream)

    width, splits = padded(out, dtype), 1 + samples % 2
    numbers = width * features * (intervals + degree + with_edges)
    arrays = {**arrays_of(layer, dtype, with_edges), "splits": splits}
    arrays |= {"packed": nan_filled(numbers, dtype=dtype), "y": nan_filled(samples, width, dtype=dtype)}
    arrays["packed_grad"] = nan_filled(splits * numbers, dtype=dtype)
    arrays["grad_y"] = np.zeros((samples, width), dtype=arrays["x"].dtype)
    arrays["grad_y"][:, :out] = upstream.numpy()
    names = ("grad_x", "grad_coef", "grad_scale", "grad_base_weight")
    for name, tensor in zip(names, wanted, strict=False):
        arrays[name] = nan_filled(*tensor.shape, dtype=dtype)
    for stage in ("pack", "forward", "input_grad", "weight_grad", "unpack"):
        device.kan_linear(stage, arrays, **options)
    near(arrays["y"][:, :out], y, dtype)
    for name, grad in zip(names, grads, strict=False):
        near(arrays[name], grad, dtype)


@pytest.mark.parametrize("shape", [(1, 2, 3, 5, 3), (70, 2, 70, 4, 3), (33, 1, 17, 9, 1)], ids=str)
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_edge_stats(device, shape, dtype):
    samples, features, out, intervals, degree = shape
    layer = random_layer(*shape, dtype)
    inputs = [t.requires_grad_() for t in layer[:4]]
    stats = kan_edge_stats_reference(
        inputs[0], inputs[1], grid=layer[4], degree=degree, scale=inputs[2], base_weight=inputs[3]
    )
    upstream = [
        torch.randn(out, features, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3)
    ]
    grads = torch.autograd.grad(stats, inputs, upstream)

    numbers = padded(out, dtype) * features * (intervals + degree + 1)
    arrays = {**arrays_of(layer, dtype, True), "packed": nan_filled(numbers, dtype=dtype)}
    arrays["packed_grad"] = nan_filled(numbers, dtype=dtype)
    results = ("mean_abs", "mean_square", "variance", "mean")
    arrays |= {name: nan_filled(out, features, dtype=dtype) for name in results}
    arrays |= dict(
        zip(("grad_abs", "grad_square", "grad_variance"), (u.numpy() for u in upstream), strict=True)
    )
    names = ("grad_x", "grad_coef", "grad_scale", "grad_base_weight")
    arrays |= {n: nan_filled(*t.shape, dtype=dtype) for n, t in zip(names, inputs, strict=True)}
    device.kan_linear("pack", arrays, degree=degree)
    device.kan_edge_stats(False, arrays, degree=degree)
    device.kan_edge_stats(True, arrays, degree=degree)
    device.kan_linear("unpack", arrays, degree=degree)
    for name, expected in zip(results[:3], stats, strict=True):
        near(arrays[name], expected, dtype)
    for name, expected in zip(names, grads, strict=True):
        near(arrays[name], expected, dtype)
