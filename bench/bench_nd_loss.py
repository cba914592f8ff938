"""nd_loss, forward and backward, against the official per-sample loop, the vectorised form and its torch.compile."""

import features
import harness
import pytest
import torch

import kdfast.functional as KF

SIZES = [(256, 2048, 1000), (1024, 1024, 81)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_nd_loss(benchmark, size):
    rows, width, classes = size
    s, t, means = features.noise((rows, width)), features.noise((rows, width), seed=1), features.noise((classes, width), seed=2)
    target = torch.arange(rows, device=s.device) % classes

    def loop(s, t):
        total = 0
        for x, y, k in zip(s, t, target, strict=True):
            direction = means[k] / means[k].norm()
            total = total + 1 - (x * direction).sum() / max(x.norm(), y.norm())
        return total / rows

    def vectorised(s, t):
        c = means.to(s.dtype)[target]
        s_norm, t_norm = s.norm(dim=1), t.norm(dim=1)
        longer = torch.where(t_norm > s_norm, t_norm, s_norm)
        return (1 - (s * c).sum(1) / c.norm(dim=1) / longer).mean()

    ours = lambda s, t: KF.nd_loss(s, t, means, target)  # noqa: E731
    plain = {"official loop": loop, "eager": vectorised}
    harness.compare(
        features.case("nd_loss", f"{rows}x{width}", s, t, ours, plain, means.numel() * 4), benchmark
    )
