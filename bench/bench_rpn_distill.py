"""rpn_distill, forward and backward, at Y-KD's size: 4 images of 800 x 1333, 15 anchors on 50 x 84.

Logits and deltas are slices of one map, so that a step has one leaf; all providers join its two gradients.
"""

import features
import harness

import kdfast.functional as KF
from kdfast.ops.rpn_distill import rpn_distill_reference

ANCHORS = 15


def of_one_map(function):
    def loss(s, t):
        return sum(function(s[:, :ANCHORS], t[:, :ANCHORS], s[:, ANCHORS:], t[:, ANCHORS:]))

    return loss


def test_rpn_distill(benchmark):
    shape = (4, 5 * ANCHORS, 50, 84)
    s, t = features.noise(shape), features.noise(shape, seed=1)
    plain = {"eager": of_one_map(rpn_distill_reference)}
    name = f"{shape[0]} images, {ANCHORS} anchors, 50x84"
    harness.compare(features.case("rpn_distill", name, s, t, of_one_map(KF.rpn_distill), plain), benchmark)
