"""masked_mse and box_weighted_mse, both on the weighted_mse kernel, against the published and the best plain forms."""

import features
import harness
import pytest
import torch

import kdfast.functional as KF


@pytest.mark.parametrize("shape, masks", [((2, 256, 100, 152), 6)], ids=["2x256x100x152 M=6"])
def test_masked_mse(benchmark, shape, masks):
    b, c, h, w = shape
    s, t = features.noise(shape), features.noise(shape, seed=1)
    spatial = features.noise((b, masks, h, w), seed=2).sigmoid()
    channel = features.noise((b, masks, c), seed=3).sigmoid()

    def materialised(s, t):
        d, wide, deep = (t - s).unsqueeze(1), spatial.to(s.dtype).unsqueeze(2), channel.to(s.dtype)[..., None, None]
        by_position = ((d * wide) ** 2).sum((2, 3, 4)) / (c * wide.sum((2, 3, 4)) + 1e-5)
        by_channel = ((d * deep) ** 2).sum((2, 3, 4)) / (h * w * deep.sum((2, 3, 4)) + 1e-5)
        return by_position.mean() + by_channel.mean()

    def through_sums(s, t):
        square = (t - s).square()
        e, g = square.sum(1).unsqueeze(1), square.sum((2, 3)).unsqueeze(1)
        wide, deep = spatial.to(s.dtype), channel.to(s.dtype)
        by_position = (wide.square() * e).sum((2, 3)) / (c * wide.sum((2, 3)) + 1e-5)
        by_channel = (deep.square() * g).sum(2) / (h * w * deep.sum(2) + 1e-5)
        return by_position.mean() + by_channel.mean()

    ours = lambda s, t: sum(KF.masked_mse(s, t, spatial=spatial, channel=channel))  # noqa: E731
    plain = {"masks materialised": materialised, "eager": through_sums}
    harness.compare(features.case("masked_mse", f"{'x'.join(map(str, shape))} M={masks}", s, t, ours, plain), benchmark)


def test_box_weighted_mse(benchmark):
    shapes, width, images, count = [(100, 167), (50, 84), (25, 42), (13, 21)], 256, 2, 20
    tokens = sum(h * w for h, w in shapes)
    s, t = features.noise((images, tokens, width)), features.noise((images, tokens, width), seed=1)
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.rand(count, 4, generator=generator).mul(0.4).add(0.1).to(s.device) for _ in range(images)]

    def loop(s, t):
        """Box by box and level by level, as FGD's code fills its masks."""
        total, begin = 0, 0
        for h, w in shapes:
            for image, own in enumerate(boxes):
                weight = torch.zeros(h, w, dtype=s.dtype, device=s.device)
                for x, y, bw, bh in own.tolist():
                    x0, x1 = int((x - bw / 2) * w + 1e-3), max(int(-(-((x + bw / 2) * w - 1e-3) // 1)) - 1, 0)
                    y0, y1 = int((y - bh / 2) * h + 1e-3), max(int(-(-((y + bh / 2) * h - 1e-3) // 1)) - 1, 0)
                    x1, y1 = min(max(x1, x0), w - 1), min(max(y1, y0), h - 1)
                    cells = weight[y0 : y1 + 1, x0 : x1 + 1]
                    weight[y0 : y1 + 1, x0 : x1 + 1] = cells.clamp(min=5e-5 / ((x1 - x0 + 1) * (y1 - y0 + 1)))
                outside = weight == 0
                weight[outside] = 1e-7 / max(int(outside.sum()), 1)
                d = s[image, begin : begin + h * w] - t[image, begin : begin + h * w]
                total = total + (weight.flatten()[:, None] * d.square()).sum()
            begin += h * w
        return total / images

    weights = KF.box_weights(boxes, shapes)
    given = lambda s, t: (weights.to(s.dtype)[..., None] * (s - t).square()).sum() / images  # noqa: E731
    ours = lambda s, t: KF.box_weighted_mse(s, t, boxes, shapes)  # noqa: E731
    plain = {"loop over boxes": loop, "eager, weights given": given}
    name = f"{images}x{tokens}x{width}, {count} boxes"
    harness.compare(features.case("box_weighted_mse", name, s, t, ours, plain), benchmark)
