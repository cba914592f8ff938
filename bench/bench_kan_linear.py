"""kan_linear, forward and backward, against efficient-kan's form, PyPI's inkan, and the products alone."""

import harness
import kan_layers
import pytest

import kdfast.functional as KF


@pytest.mark.parametrize("size", kan_layers.SIZES, ids=kan_layers.label)
def test_kan_linear(benchmark, size):
    *leaves, grid, upstream = kan_layers.inputs(size)

    def ours(x, coef, scale, base, grid):
        return KF.kan_linear(x, coef, grid=grid, scale=scale, base_weight=base)

    x, *weights = (t.double() for t in leaves)
    double, shown = (x[: kan_layers.SHOWN], *weights), upstream[: kan_layers.SHOWN].double()
    truth = kan_layers.step(kan_layers.efficient_kan, double, shown, grid.double())[1]()
    samples, features, out, intervals = size
    edges = out * features * (intervals + 5)
    case = harness.Case(
        op="kan_linear",
        name=kan_layers.label(size),
        providers=[
            kan_layers.provider("kdfast", ours, leaves, upstream, grid),
            kan_layers.provider("efficient-kan's form", kan_layers.efficient_kan, leaves, upstream, grid),
            *kan_layers.inkan_layers(size, leaves[0], upstream),
            kan_layers.products(size, upstream),
        ],
        minimum_bytes=4 * (2 * samples * features + 2 * samples * out + 2 * edges),
        truth=truth,
        flops=3 * 2 * samples * features * out * 5,
    )
    harness.compare(case, benchmark)
