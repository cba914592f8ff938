"""class_box_l2, forward and backward, on Y-KD's box deltas: 256 regions, 20 classes, 4 deltas."""

import features
import harness

import kdfast.functional as KF
from kdfast.ops.class_box_l2 import class_box_l2_reference


def test_class_box_l2(benchmark):
    shape = (256, 20, 4)
    s, t = features.noise(shape), features.noise(shape, seed=1)
    plain = {"eager": class_box_l2_reference}
    name = "x".join(map(str, shape))
    harness.compare(features.case("class_box_l2", name, s, t, KF.class_box_l2, plain), benchmark)
