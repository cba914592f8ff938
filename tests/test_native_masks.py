# ruff: noqa: B023, E731 - these lambdas are called within their round of the loop
"""The CUDA kernels around masks and classes, on the emulated device, against the definitions."""

import pytest
import torch
from feature_checks import DTYPES, noise, value_and_grads
from native import mask_runs as runs
from test_native_features import LAYOUTS, agree

from kdfast.ops.box_weights import box_weights_reference
from kdfast.ops.class_sums import class_sums_reference
from kdfast.ops.dice_diversity import dice_diversity_reference
from kdfast.ops.random_mask import random_mask_reference


@pytest.mark.parametrize("order, seed", [("in_order", 0), ("reversed", 0), ("shuffled", 1)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_class_sums(native, dtype, order, seed):
    native.set_device(order=order, seed=seed)
    for rows, width, classes in ((0, 4, 3), (1, 1, 1), (300, 33, 2), (600, 3, 7), (5, 300, 4)):
        x, y = noise((rows, width), dtype), torch.arange(rows) * 7 % classes
        y[::5] = -100
        for wide in (False, True):
            ours = runs.class_sums(native, x, y, classes, ignored=-100, wide=wide)
            dtype_of_sums = torch.float64 if wide else torch.float32
            expected = class_sums_reference(x, y, classes, ignore_index=-100, dtype=dtype_of_sums)
            torch.testing.assert_close(ours, expected, rtol=1e-14 if wide else 1e-6, atol=0)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_box_weights(native, kind):
    generator = torch.Generator().manual_seed(0)
    shapes, counts = [(13, 17), (7, 9), (1, 1)], [3, 0, 300]
    boxes = torch.rand(sum(counts), 4, generator=generator) * torch.tensor([1, 1, 0.5, 0.5])
    boxes[0], boxes[1] = torch.tensor([1.2, 0.5, 0.1, 0.1]), torch.tensor([0.5, 0.5, 0.0, 1.0])
    mask = torch.rand(3, sum(h * w for h, w in shapes), generator=generator) > 0.2
    for kept in (None, mask):
        ours = runs.box_weights(native, boxes, counts, shapes, 2.0, 3.0, kept, kind)
        expected = box_weights_reference(boxes, counts, shapes, 2.0, 3.0, kept, getattr(torch, kind))
        torch.testing.assert_close(ours, expected)


def test_boxes_that_are_not_numbers_have_a_defined_result(native):
    boxes = torch.tensor([[torch.nan, 0.5, 0.1, 0.1], [0.5, 0.5, -1, torch.inf], [1e30, -1e30, 1e30, 1e30]])
    assert runs.box_weights(native, boxes, [3], [(4, 5)], 1.0, 1.0).isfinite().all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pairwise", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dice_diversity(native, dtype, pairwise, layout):
    for batch, positions, count in ((1, 1, 2), (2, 300, 6), (2, 33, 19)):
        masks = LAYOUTS[layout](noise((batch, positions, count), dtype).sigmoid())
        form = "pairwise_mean" if pairwise else "ratio_of_sums"
        define = lambda m: 3 * dice_diversity_reference(m.double().mT, form=form)
        expected, (grad,) = value_and_grads(define, masks)
        kind = torch.float64 if dtype == torch.float64 else torch.float32
        value, ours = runs.dice_diversity(native, masks, pairwise, torch.tensor([3.0], dtype=kind))
        agree(3 * value.sum(), expected, kind), agree(ours, grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_mask(native, dtype):
    state = torch.tensor([2**61 + 5, 2**40 + 7])
    for shape in ((1, 1, 1), (2, 20, 300), (2, 3, 5)):
        x = noise(shape, dtype)  # [batch, channels, positions]
        for over, by_inner in (("positions", True), ("channels", False)):
            expected = random_mask_reference(x, state, 0.4, over)
            assert torch.equal(runs.random_mask(native, x, state, 0.4, by_inner), expected)
            turned = runs.random_mask(native, x.mT, state, 0.4, not by_inner)  # channels inner
            assert torch.equal(turned.mT, expected)
