"""normalized_mse, forward and backward, on ScaleKD's maps: against the eager form and its torch.compile."""

import features
import harness
import pytest
import torch.nn.functional as F

import kdfast.functional as KF


@pytest.mark.parametrize("center", [False, True], ids=["plain", "centred"])
@pytest.mark.parametrize("shape", [(32, 1536, 7, 7)], ids=lambda s: "x".join(map(str, s)))
def test_normalized_mse(benchmark, shape, center):
    s, t = features.noise(shape), features.noise(shape, seed=1)

    def view(x):
        return F.normalize(x - x.mean((2, 3), keepdim=True) if center else x, dim=1)

    def eager(s, t):
        return (view(s) - view(t)).square().sum() / s.size(0)

    ours = lambda s, t: KF.normalized_mse(s, t, dim=1, center=center)  # noqa: E731
    name = "x".join(map(str, shape)) + (" centred" if center else "")
    harness.compare(features.case("normalized_mse", name, s, t, ours, {"eager": eager}), benchmark)
