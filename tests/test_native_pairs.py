# ruff: noqa: B023, E731 - these lambdas are called within their round of the loop
"""The CUDA kernels over pairs of numbers, on the emulated device, against the definitions."""

import pytest
import torch
from feature_checks import DTYPES, noise, value_and_grads
from native import pair_runs as runs
from test_native_features import agree

from kdfast.ops.box_loss import box_loss_reference
from kdfast.ops.class_box_l2 import class_box_l2_reference
from kdfast.ops.rpn_distill import rpn_distill_reference
from kdfast.ops.soft_bce import soft_bce_reference


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


@pytest.mark.parametrize("order, seed", [("in_order", 0), ("shuffled", 1)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_pairs(native, dtype, order, seed):
    native.set_device(order=order, seed=seed)
    for rows, new, old, rest in ((1, 2, 2, 1), (3, 5, 3, 4), (2, 4, 3, 500), (2, 9, 9, 33)):
        s, t = noise((rows, new, rest), dtype), noise((rows, old, rest), dtype, 1)
        four = [x[:, :, :1].expand(-1, -1, 4).contiguous() for x in (s, t)]
        for name, a, b, first, define in (
            ("soft_bce", s, t, 0, soft_bce_reference), ("class_box_l2", *four, 4, class_box_l2_reference),
        ):  # fmt: skip
            expected, (grad,) = value_and_grads(lambda a: 3 * define(a.double(), b.double()), a)
            count = rows * (old * rest if first == 0 else old - 1)
            flat = a.flatten(1), b.flatten(1)
            up = torch.tensor([3.0], dtype=wide(dtype))
            value, ours = runs.rows(native, name, *flat, first, scale=[1 / count], upstream=[up])
            agree(3 * value[0], expected, wide(dtype)), agree(ours.reshape(a.shape), grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_boxes(native, dtype):
    for count in (1, 5, 1300):
        s, t = noise((count, 4), dtype).abs(), noise((count, 4), dtype, 1).abs()
        weight = torch.linspace(0, 2, count).to(wide(dtype))
        options = {"weight": weight.double(), "l1": 5.0, "giou": 2.0}
        define = lambda s, r: box_loss_reference(s.double(), t.double(), reduction=r, **options)
        expected, (grad,) = value_and_grads(lambda s: define(s, "mean"), s)
        total = weight.sum().reshape(1)
        value, _, ours = runs.boxes(native, s, t, 5.0, 2.0, weight=weight, divisor=total)
        agree(value[0], expected, wide(dtype)), agree(ours, grad, dtype)
        up = torch.linspace(1, 3, count).to(wide(dtype))
        _, (grad,) = value_and_grads(lambda s: (define(s, "none") * up).sum(), s)
        _, each, ours = runs.boxes(native, s, t, 5.0, 2.0, weight=weight, upstream=[up])
        agree(each, define(s, "none"), wide(dtype)), agree(ours, grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_anchors(native, dtype):
    for batch, anchors, points in ((1, 1, 1), (2, 3, 35), (1, 2, 1100)):
        maps = [noise((batch, n * anchors, points), dtype, k) for k, n in enumerate((1, 1, 4, 4))]
        define = lambda so, sd: sum(
            u * v for u, v in zip((2, 3), rpn_distill_reference(
                *(x.double().unsqueeze(-1) for x in (so, maps[1], sd, maps[3]))), strict=True)
        )  # fmt: skip
        expected, grads = value_and_grads(define, maps[0], maps[2])
        ups = [torch.tensor([u], dtype=wide(dtype)) for u in (2.0, 3.0)]
        scale = [1 / (batch * anchors * points)] * 2
        values, ours = runs.anchors(native, maps, 0.1, scale=scale, upstream=ups)
        agree(2 * values[0][0] + 3 * values[1][0], expected, wide(dtype))
        for mine, theirs in zip(ours, grads, strict=True):
            agree(mine, theirs, dtype)


def test_dropped_points_may_hold_nan(native):
    s, t = noise((6, 4), torch.float32).abs(), noise((6, 4), torch.float32, 1).abs()
    s[2], t[3] = torch.nan, torch.inf
    weight = torch.tensor([1.0, 2, 0, 0, 1, 0])
    value, each, grad = runs.boxes(native, s, t, 5.0, 2.0, weight=weight)
    assert value.isfinite() and each.isfinite().all() and grad.isfinite().all() and not grad[2:4].any()
