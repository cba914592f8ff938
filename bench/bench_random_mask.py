"""random_mask, forward and backward, on MGD's maps: against a mask drawn by torch.rand, kept for the backward
pass. The map's gradient from above is given.
"""

import features
import harness
import pytest
import torch
from harness import Case, Provider

import kdfast.functional as KF

SHAPES = {"positions": (2, 256, 100, 152), "channels": (64, 512, 7, 7)}


@pytest.mark.parametrize("over", SHAPES)
def test_random_mask(benchmark, over):
    shape = SHAPES[over]
    x, up = features.noise(shape).requires_grad_(), features.noise(shape, seed=1)
    of_mask = (shape[0], 1, *shape[2:]) if over == "positions" else (*shape[:2], 1, 1)
    ratio = 0.65 if over == "positions" else 0.15

    def plain(x):
        return x * (torch.rand(of_mask, device=x.device) >= ratio)

    def step(function):
        def run():
            function(x).backward(up)
            x.grad = None

        return run

    forms = {
        "kdfast": lambda x: KF.random_mask(x, ratio, over=over),
        "eager": plain,
        "torch.compile": torch.compile(plain),
    }
    torch._dynamo.reset()
    providers = [Provider(name, step(form)) for name, form in forms.items()]
    name = "x".join(map(str, shape)) + " " + over
    harness.compare(Case("random_mask", name, providers, 4 * x.nbytes), benchmark)
