"""scale_grad_, the factor from upstream: 1 costs no pass, anything else one read and one write."""

import harness
import pytest
import torch
from harness import Case, Provider

from kdfast import backend


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_scale_grad(benchmark, factor):
    grad = torch.randn(1024, 32000, device=harness.device())
    by = torch.tensor(factor, device=harness.device())
    ops = backend.ops(backend.of(grad))
    providers = [
        Provider("kdfast", lambda: ops.scale_grad_(grad, by)),
        Provider("eager", lambda: grad.mul_(by)),
    ]
    moved = 2 * grad.numel() * grad.element_size()
    harness.compare(Case("scale_grad", f"1024x32000 float32 by {factor}", providers, moved), benchmark)
