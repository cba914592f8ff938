"""box_loss, forward and backward, on the boxes of 6 DETR layers and 2 images: against the matrix of all pairs
whose diagonal is then taken, as published codes have it, and against the elementwise form.
"""

import features
import harness
import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou

import kdfast.functional as KF
from kdfast.ops.box_loss import box_loss_reference


@pytest.mark.parametrize("queries", [60, 360])
def test_box_loss(benchmark, queries):
    rows = 6 * 2 * queries
    s, t = (
        torch.rand(rows, 4, generator=torch.Generator().manual_seed(k)).mul(0.4).add(0.05) for k in (0, 1)
    )
    s, t = s.to(harness.device()), t.to(harness.device())
    weight = features.noise((rows,), seed=2).sigmoid()

    def all_pairs(s, t):
        w = weight.to(s.dtype)
        giou = generalized_box_iou(*(box_convert(x, "cxcywh", "xyxy") for x in (s, t))).diagonal()
        value = 5 * (s - t).abs().mean(-1) + 2 * (1 - giou)
        return (w * value).sum() / w.sum()

    ours = lambda s, t: KF.box_loss(s, t, weight=weight, reduction="mean")  # noqa: E731
    eager = lambda s, t: box_loss_reference(s, t, weight=weight, reduction="mean")  # noqa: E731
    plain = {"eager": eager}
    if rows < 1000:  # its memory grows with the square: 1.4 GB for the larger case
        plain = {"matrix of pairs": all_pairs} | plain
    harness.compare(features.case("box_loss", f"{rows} boxes", s, t, ours, plain), benchmark)
