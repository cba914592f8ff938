"""box_weights: one weight a cell of a pyramid."""

import torch
from feature_checks import refuses

import kdfast.functional as KF
from kdfast.ops.box_weights import box_weights_reference

OP = "box_weights"


def loop_weights(boxes, shapes, alpha, beta, mask=None):
    """Cell by cell, box by box, in Python numbers rounded to float32 where the contract says so."""
    out, begin_of = torch.zeros(len(boxes), sum(h * w for h, w in shapes), dtype=torch.float64), 0
    f = lambda x: torch.tensor(x, dtype=torch.float32)  # noqa: E731
    for h, w in shapes:
        for image, own in enumerate(boxes):
            for box in own.float():
                low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
                spans = []
                for a, b, n in ((low[0], high[0], w), (low[1], high[1], h)):
                    first = int(torch.floor(a * f(n) + f(1e-3)))
                    last = max(int(torch.ceil(b * f(n) - f(1e-3))) - 1, first)
                    spans.append((min(max(first, 0), n - 1), min(max(last, 0), n - 1)))
                (x0, x1), (y0, y1) = spans
                area = (x1 - x0 + 1) * (y1 - y0 + 1)
                for y in range(y0, y1 + 1):
                    for x in range(x0, x1 + 1):
                        at = begin_of + y * w + x
                        out[image, at] = max(out[image, at], alpha / area)
            level = out[image, begin_of : begin_of + h * w]
            kept = (
                torch.ones(h * w, dtype=torch.bool)
                if mask is None
                else mask[image, begin_of : begin_of + h * w] != 0
            )
            empty = (level == 0) & kept
            level[empty] = beta / max(int(empty.sum()), 1)
            level[~kept] = 0
        begin_of += h * w
    return out


def some_boxes():
    generator = torch.Generator().manual_seed(1)
    several = torch.rand(7, 4, generator=generator) * torch.tensor([1, 1, 0.5, 0.5])
    special = torch.tensor(
        [[0.5, 0.5, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [1.2, 0.5, 0.1, 0.1], [0.5, 0.5, 1e-4, 0.9]]
    )
    return [several, torch.zeros(0, 4), special[1:], special[:1]]


def test_weights_of_a_pyramid(place):
    shapes, boxes = [(13, 17), (7, 9), (4, 5), (1, 1)], some_boxes()
    mask = torch.rand(4, sum(h * w for h, w in shapes), generator=torch.Generator().manual_seed(0)) > 0.2
    for kept in (None, mask):
        ours = KF.box_weights(
            [b.to(place) for b in boxes],
            shapes,
            alpha=2.0,
            beta=3.0,
            mask=None if kept is None else kept.to(place),
        )
        torch.testing.assert_close(
            ours.cpu().double(), loop_weights(boxes, shapes, 2.0, 3.0, kept), rtol=1e-6, atol=0
        )


def test_any_number_of_images_levels_and_boxes(place):
    """More than a launch takes (64 images, 16 levels), and more boxes than a block holds at a time."""
    generator = torch.Generator().manual_seed(2)
    for images, levels, boxes in ((67, 2, 3), (2, 18, 5), (1, 1, 600)):
        own = [torch.rand(boxes, 4, generator=generator) * 0.3 for _ in range(images)]
        shapes = [(3 + level % 4, 5) for level in range(levels)]
        ours = KF.box_weights([b.to(place) for b in own], shapes, alpha=2.0, beta=3.0)
        expected = box_weights_reference(torch.cat(own), [boxes] * images, shapes, 2.0, 3.0, None)
        torch.testing.assert_close(ours.cpu(), expected, rtol=1e-6, atol=0)


def test_every_pixel_border_is_its_own_cell(place):
    """Boxes with corners on cells' borders, up to float32's rounding, cover those cells and no others."""
    for size in (7, 42, 100, 167, 1333):
        index = torch.arange(0, size, max(1, size // 50))
        boxes = torch.stack([(index + 0.5) / size, torch.full((len(index),), 0.5),
                             torch.full((len(index),), 1 / size), torch.ones(len(index))], 1)  # fmt: skip
        for box, cell in zip(boxes, index.tolist(), strict=True):
            weight = KF.box_weights([box[None].to(place)], [(1, size)], alpha=1.0, beta=0.0)
            assert weight.nonzero().tolist() == [[0, cell]] and weight.max() == 1


def test_float64_weights_and_compile(place):
    boxes = [b.to(place) for b in some_boxes()]
    weight = KF.box_weights(boxes, [(5, 7), (3, 4)], alpha=1.0, beta=0.3, dtype=torch.float64)
    expected = loop_weights([b.cpu() for b in boxes], [(5, 7), (3, 4)], 1.0, 0.3)
    torch.testing.assert_close(weight.cpu(), expected)
    call = lambda *boxes: KF.box_weights(list(boxes), [(5, 7), (3, 4)])  # noqa: E731
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*boxes), call(*boxes))


def test_opcheck(need):
    need.backend("native")
    boxes = torch.cat(some_boxes())
    arguments = (boxes, [7, 0, 4, 1], [5, 7, 3, 4], 1.0, 0.5, None, False)
    torch.library.opcheck(torch.ops.kdfast.box_weights.default, arguments)


def test_bad_input():
    boxes = some_boxes()
    refuses(ValueError, "alpha must be", KF.box_weights, boxes, [(3, 4)], alpha=-1.0)
    refuses(ValueError, "shapes must hold", KF.box_weights, boxes, [(3, 0)])
    refuses(ValueError, "mask must be", KF.box_weights, boxes, [(3, 4)], mask=torch.ones(4, 11))
    elsewhere = torch.ones(4, 12, device="meta")
    refuses(RuntimeError, "mask is on", KF.box_weights, boxes, [(3, 4)], mask=elsewhere)
    refuses(ValueError, "dtype must be", KF.box_weights, boxes, [(3, 4)], dtype=torch.bfloat16)
    for bad in (torch.nan, -0.1):
        boxes[0][1, 2] = bad
        refuses(ValueError, "boxes must be cxcywh", KF.box_weights, boxes, [(3, 4)])
