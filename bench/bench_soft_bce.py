"""soft_bce, forward and backward, on Y-KD's mask logits: 256 regions, 20 classes, 14 x 14."""

import features
import harness
import torch.nn.functional as F

import kdfast.functional as KF
from kdfast.ops.soft_bce import soft_bce_reference


def test_soft_bce(benchmark):
    shape = (256, 20, 14, 14)
    s, t = features.noise(shape), features.noise(shape, seed=1)
    plain = {
        "definition": soft_bce_reference,
        "eager": lambda s, t: F.binary_cross_entropy_with_logits(s, t.sigmoid()),
    }
    name = "x".join(map(str, shape))
    harness.compare(features.case("soft_bce", name, s, t, KF.soft_bce, plain), benchmark)
