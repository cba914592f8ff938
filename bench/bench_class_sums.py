"""class_sums: a batch of embeddings by class, against index_add in float32 and in float64."""

import features
import harness
import pytest
import torch
from harness import Case, Provider

import kdfast.functional as KF


@pytest.mark.parametrize("size", [(1024, 1024, 81), (256, 2048, 1000)], ids=lambda s: "x".join(map(str, s)))
def test_class_sums(benchmark, size):
    rows, width, classes = size
    x = features.noise((rows, width))
    target = torch.arange(rows, device=x.device) * 7 % classes

    def added(dtype):
        def run():
            sums = x.new_zeros((classes, width), dtype=dtype).index_add(0, target, x.to(dtype))
            return sums.float(), torch.bincount(target, minlength=classes)

        return run

    providers = [
        Provider("kdfast", lambda: KF.class_sums(x, target, classes)),
        Provider("index_add, float32", added(torch.float32)),
        Provider("index_add, float64", added(torch.float64)),
    ]
    name = f"{rows}x{width}, {classes} classes"
    harness.compare(Case("class_sums", name, providers, x.nbytes + 4 * classes * width), benchmark)
