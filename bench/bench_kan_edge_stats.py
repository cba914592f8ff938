"""kan_edge_stats, forward and backward, against the same from every edge's output in full."""

import harness
import kan_layers
import pytest
import torch

import kdfast.functional as KF
from kdfast.ops.kan_edge_stats import kan_edge_stats_reference

SIZES = [(256, 64, 64, 5), (1024, 100, 16, 5), (4096, 32, 32, 5)]


@pytest.mark.parametrize("size", SIZES, ids=kan_layers.label)
def test_kan_edge_stats(benchmark, size):
    *leaves, grid, _ = kan_layers.inputs(size)

    def of(function):
        def edges(x, coef, scale, base, grid):
            return torch.stack(function(x, coef, grid=grid, scale=scale, base_weight=base))

        return edges

    upstream = torch.randn(3, size[2], size[1], device=grid.device)
    definition = of(kan_edge_stats_reference)
    double = [t.double() for t in leaves]
    case = harness.Case(
        op="kan_edge_stats",
        name=kan_layers.label(size),
        providers=[
            kan_layers.provider("kdfast", of(KF.kan_edge_stats), leaves, upstream, grid),
            kan_layers.provider("every edge in full", definition, leaves, upstream, grid),
        ],
        minimum_bytes=4 * (2 * leaves[0].numel() + 2 * leaves[1].numel()),
        truth=kan_layers.step(definition, double, upstream.double(), grid.double())[1](),
    )
    harness.compare(case, benchmark)
