"""bspline_basis, forward and backward, against the recursion that efficient-kan uses."""

import harness
import kan_layers
import pytest
import torch

import kdfast.functional as KF


@pytest.mark.parametrize("size", kan_layers.SIZES, ids=kan_layers.label)
def test_bspline_basis(benchmark, size):
    x, *_, grid, _ = kan_layers.inputs(size)
    samples, features, _, intervals = size
    upstream = torch.randn(samples, features, intervals + 3, device=x.device)
    leaf, above = (t[: kan_layers.SHOWN].double() for t in (x, upstream))
    truth = kan_layers.step(kan_layers.recursion, (leaf,), above, grid.double())[1]()
    case = harness.Case(
        op="bspline_basis",
        name=kan_layers.label(size),
        providers=[
            kan_layers.provider("kdfast", lambda x, g: KF.bspline_basis(x, g, 3), (x,), upstream, grid),
            kan_layers.provider("efficient-kan's form", kan_layers.recursion, (x,), upstream, grid),
        ],
        minimum_bytes=4 * (2 * samples * features + 2 * upstream.numel()),
        truth=truth,
    )
    harness.compare(case, benchmark)
