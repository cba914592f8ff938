"""box_weighted_mse: imitation weighed by boxes."""

import pytest
import torch
from check import Case, check_op
from feature_checks import (
    DTYPES,
    near,
    noise,
    refuses,
    size,
    value_and_grads,
    works_with_pytorch,
)
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.box_weighted_mse import box_weighted_mse_reference
from kdfast.ops.box_weights import weights_for_loss


def boxes_of_cells(extents, h, w):
    """cxcywh boxes that cover inclusive cells (r0, r1, c0, c1) exactly."""
    rows = [
        ((c0 + c1 + 1) / 2 / w, (r0 + r1 + 1) / 2 / h, (c1 - c0 + 1) / w, (r1 - r0 + 1) / h)
        for r0, r1, c0, c1 in extents
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def vector():
    to_tokens = lambda x: x.flatten(2).mT  # noqa: E731
    teacher, student = to_tokens(wave((1, 3, 4, 5), 2.0)), to_tokens(wave((1, 3, 4, 5), 2.0, 0.5))
    return student, teacher, [boxes_of_cells([(0, 1, 0, 2), (1, 3, 2, 3), (1, 1, 1, 1)], 4, 5)], [(4, 5)]


def test_vector(place):
    s, t, boxes, shapes = vector()
    s, t, boxes = s.to(place), t.to(place), [b.to(place) for b in boxes]
    double = {"dtype": torch.float64}
    inside = weights_for_loss(boxes, shapes, alpha=1.0, beta=0.0, **double)
    near(KF.weighted_mse(s, t, position=inside)[0], 4.00447732188433, 1e-12)
    outside = weights_for_loss(boxes, shapes, alpha=0.0, beta=1.0, **double)
    near(KF.weighted_mse(s, t, position=outside)[0], 1.4480357634365186, 1e-12)
    sixth = 1 / 6
    rows = [
        [sixth, sixth, sixth, 0, 0],
        [sixth, 1, sixth, sixth, 0],
        [0, 0, sixth, sixth, 0],
        [0, 0, sixth, sixth, 0],
    ]
    torch.testing.assert_close(inside.cpu().reshape(4, 5), torch.tensor(rows, **double))
    value, (grad,) = value_and_grads(lambda s: KF.box_weighted_mse(s, t, boxes, shapes), s)
    near(value, 2.00368669671e-4, 1e-11), near(size(grad), 5.21966600095e-4, 1e-11)
    first = grad.mT.flatten()[:3].tolist()
    assert first == pytest.approx([5.20080005987e-6, -1.03608427574e-5, -1.63967745250e-5], rel=1e-10)


def some_boxes():
    generator = torch.Generator().manual_seed(1)
    several = torch.rand(7, 4, generator=generator) * torch.tensor([1, 1, 0.5, 0.5])
    special = torch.tensor(
        [[0.5, 0.5, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1.2, 0.5, 0.1, 0.1], [0.5, 0.5, 1e-4, 0.9]]
    )
    return [several, torch.zeros(0, 4), special[1:], special[:1]]


def cases(dtype):
    shapes, boxes = [(5, 7), (3, 4)], some_boxes()
    for name, width, to in (
        ("tokens", 32, lambda x: x), ("narrow", 3, lambda x: x), ("odd", 257, lambda x: x),
        ("maps", 16, lambda x: x.mT.contiguous().mT), ("sliced", 8, lambda x: torch.cat([x, x], 2)[..., ::2]),
    ):  # fmt: skip
        s, t = to(noise((4, 47, width), dtype)), to(noise((4, 47, width), dtype, 1))
        yield Case(name, (s,), (t, boxes, shapes), {"alpha": 1.0, "beta": 0.5})
    mask = torch.arange(4 * 47).reshape(4, 47) % 3 != 0
    yield Case("mask", (s,), (t, boxes, shapes), {"alpha": 1.0, "beta": 0.5, "mask": mask})
    yield Case("no boxes", (s,), (t, [torch.zeros(0, 4)] * 4, shapes))


def with_boxes_there(function):
    return lambda s, t, boxes, shapes, **k: function(s, t, [b.to(s.device) for b in boxes], shapes, **k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(
        with_boxes_there(KF.box_weighted_mse),
        with_boxes_there(box_weighted_mse_reference),
        cases(dtype),
        place,
    )


def test_padding_may_hold_nan(place):
    s, t, boxes, shapes = vector()
    s, t, boxes = s.to(place), t.to(place), [b.to(place) for b in boxes]
    mask = (torch.arange(20, device=place) < 15)[None]
    expected = value_and_grads(lambda s: KF.box_weighted_mse(s, t, boxes, shapes, mask=mask), s)
    s[:, 15:], t[:, 17:] = torch.nan, torch.inf
    torch.testing.assert_close(
        value_and_grads(lambda s: KF.box_weighted_mse(s, t, boxes, shapes, mask=mask), s), expected
    )


def test_empty_batch(place):
    s = torch.zeros(0, 20, 3, device=place)
    value, (grad,) = value_and_grads(lambda s: KF.box_weighted_mse(s, s.detach(), [], [(4, 5)]), s)
    assert value == 0 and grad.shape == s.shape


def test_works_with_pytorch(place):
    s, t, boxes, shapes = vector()
    t, boxes = t.float().to(place), [b.to(place) for b in boxes]
    works_with_pytorch(
        lambda s: KF.box_weighted_mse(s, t, boxes, shapes, alpha=1.0, beta=1.0), s.float().to(place)
    )


def test_bad_input():
    s, t, boxes, shapes = vector()
    call = KF.box_weighted_mse
    refuses(ValueError, "add up to 16 tokens, but student has 20", call, s, t, boxes, [(4, 4)])
    refuses(ValueError, "one tensor an image", call, s, t, boxes * 2, shapes)
    refuses(TypeError, "boxes must be a list", call, s, t, boxes[0], shapes)
    refuses(ValueError, r"boxes\[0\] must be", call, s, t, [boxes[0][:, :3]], shapes)
    refuses(ValueError, "alpha must be", call, s, t, boxes, shapes, alpha=-1.0)
    refuses(ValueError, "mask must have", call, s, t, boxes, shapes, mask=torch.ones(1, 19, dtype=torch.bool))
    for bad in (torch.nan, -0.1):
        boxes[0][1, 2] = bad
        refuses(ValueError, "boxes must be cxcywh", call, s, t, boxes, shapes)


def test_module():
    s, t, boxes, shapes = vector()
    module = kdfast.nn.BoxWeightedMSELoss(alpha=1.0)
    assert torch.equal(module(s, t, boxes, shapes), KF.box_weighted_mse(s, t, boxes, shapes, alpha=1.0))
