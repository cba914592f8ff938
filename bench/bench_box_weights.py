"""box_weights of 2 images of 800 x 1333, strides 8 to 64, 20 boxes each: against painting box by box, and
against the comparison of all cells with all boxes, plain and compiled.
"""

import harness
import torch
from harness import Case, Provider

import kdfast.functional as KF
from kdfast.ops.box_weights import box_weights_reference

SHAPES = [(100, 167), (50, 84), (25, 42), (13, 21)]
IMAGES, BOXES, ALPHA, BETA = 2, 20, 5e-5, 1e-7


def painted(boxes):
    rows = []
    for own in boxes:
        levels = []
        for h, w in SHAPES:
            weight = torch.zeros(h, w, device=own.device)
            for x, y, bw, bh in own.tolist():
                x0, x1 = int((x - bw / 2) * w + 1e-3), max(int(-(-((x + bw / 2) * w - 1e-3) // 1)) - 1, 0)
                y0, y1 = int((y - bh / 2) * h + 1e-3), max(int(-(-((y + bh / 2) * h - 1e-3) // 1)) - 1, 0)
                x1, y1 = min(max(x1, x0), w - 1), min(max(y1, y0), h - 1)
                cells = weight[y0 : y1 + 1, x0 : x1 + 1]
                weight[y0 : y1 + 1, x0 : x1 + 1] = cells.clamp(min=ALPHA / ((x1 - x0 + 1) * (y1 - y0 + 1)))
            outside = weight == 0
            weight[outside] = BETA / max(int(outside.sum()), 1)
            levels.append(weight.flatten())
        rows.append(torch.cat(levels))
    return torch.stack(rows)


def test_box_weights(benchmark):
    generator = torch.Generator().manual_seed(0)
    boxes = [
        torch.rand(BOXES, 4, generator=generator).mul(0.4).add(0.1).to(harness.device())
        for _ in range(IMAGES)
    ]
    joined = torch.cat(boxes)

    def compared():
        return box_weights_reference(joined, [BOXES] * IMAGES, SHAPES, ALPHA, BETA, None)

    torch._dynamo.reset()
    providers = [
        Provider("kdfast", lambda: KF.box_weights(boxes, SHAPES)),
        Provider("box by box", lambda: painted(boxes)),
        Provider("eager", compared),
        Provider("torch.compile", torch.compile(compared)),
    ]
    cells = sum(h * w for h, w in SHAPES)
    name = f"{IMAGES} images, {cells} cells, {BOXES} boxes"
    harness.compare(Case("box_weights", name, providers, 4 * IMAGES * cells), benchmark)
