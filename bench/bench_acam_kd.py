"""The distillation part of an ACAM-KD step, forward and backward: kdfast, the equations with every tensor in
memory (as the closest published code has them), and the best plain PyTorch.

Levels P3 ... P7 of an 800 x 1216 image with 256 channels and M = 6, and Cityscapes' logits with M = 19, batch
2. A GPU takes the whole pyramid and a CPU the levels from P4 up; KDFAST_BENCH_ACAM=all takes P3 there too,
whose attention map is 0.9 GB an image.
"""

import os

import features
import harness
import pytest
import torch
from harness import Case, Provider

from kdfast.recipes.acam_kd import ACAMLevel
from kdfast.recipes.acam_kd.eager import materialised, through_sums

BATCH = 2
PYRAMID = [(100, 152), (50, 76), (25, 38), (13, 19), (7, 10)]  # P3 ... P7
SIZES = {
    "P4": (256, 50, 76, 6),
    "P5": (256, 25, 38, 6),
    "P6": (256, 13, 19, 6),
    "P7": (256, 7, 10, 6),
    "Cityscapes logits": (19, 64, 128, 19),
}
if harness.device() == "cuda" or os.environ.get("KDFAST_BENCH_ACAM") == "all":
    SIZES = {"P3": (256, 100, 152, 6), **SIZES}
FAST, SLOW = 1_000, 10_000  # positions of a batch beyond which a CPU gets one run of five or three rounds


@pytest.mark.parametrize("name", SIZES)
def test_acam_level(benchmark, monkeypatch, name):
    channels, height, width, masks = SIZES[name]
    shape = (BATCH, channels, height, width)
    torch.manual_seed(0)
    level = ACAMLevel(channels, channels, num_masks=masks, statistics=False).to(harness.device())
    exact = ACAMLevel(channels, channels, num_masks=masks, statistics=False).double().to(harness.device())
    exact.load_state_dict(level.state_dict())
    student, teacher = features.noise(shape), features.noise(shape, seed=1)
    if harness.device() == "cpu" and BATCH * height * width > FAST:
        monkeypatch.setattr(harness, "ROUNDS", 5 if BATCH * height * width < SLOW else 3)
        monkeypatch.setattr(harness, "RUNS", 1)
    forms = {
        "kdfast": lambda s, t, own=level: _sum(own(s, t).values()),
        "every tensor in memory": lambda s, t, own=level: _sum(materialised(own, s, t)),
        "eager, best plain": lambda s, t, own=level: _sum(through_sums(own, s, t)),
    }
    leaf = student.clone().requires_grad_()
    providers = [
        Provider(
            kind, harness.training_step(loss, leaf, teacher), harness.gradient_of(loss, student, teacher)
        )
        for kind, loss in forms.items()
    ]
    truth = None
    if BATCH * height * width <= SLOW or harness.device() == "cuda":
        truth = harness.gradient_of(
            lambda s, t: _sum(through_sums(exact, s, t)), student.double(), teacher.double()
        )()
    size = "x".join(map(str, shape))
    minimum = 3 * student.numel() * student.element_size()
    extra = {"masks": masks, "attention_map_bytes": BATCH * (height * width) ** 2 * 4}
    harness.compare(
        Case("acam_kd", f"{name} {size} M={masks}", providers, minimum, truth, extra=extra), benchmark
    )


def test_acam_pyramid(benchmark, monkeypatch):
    """All levels P3 ... P7 in one step; 16 images on a GPU."""
    batch = 16 if harness.device() == "cuda" else BATCH
    shapes = [(batch, 256, height, width) for height, width in PYRAMID]
    torch.manual_seed(0)
    levels = [ACAMLevel(256, 256, num_masks=6, statistics=False).to(harness.device()) for _ in shapes]
    leaves = [features.noise(shape).requires_grad_() for shape in shapes]
    teachers = [features.noise(shape, seed=1) for shape in shapes]

    def whole(form):
        def loss(*students):
            each = zip(levels, students, teachers, strict=True)
            return sum(_sum(form(level, s, t)) for level, s, t in each)

        return loss

    def step(loss):
        def run():
            loss(*leaves).backward()
            for leaf in leaves:
                leaf.grad = None

        return run

    if harness.device() == "cpu":
        monkeypatch.setattr(harness, "ROUNDS", 3)
        monkeypatch.setattr(harness, "RUNS", 1)
    torch._dynamo.reset()
    forms = {
        "kdfast": whole(lambda level, s, t: level(s, t).values()),
        "SDPA": whole(through_sums),
        "torch.compile of SDPA": torch.compile(whole(through_sums)),
    }
    if harness.device() == "cuda":
        forms["every tensor in memory"] = whole(materialised)
    minimum = 3 * sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    providers = [Provider(kind, step(loss)) for kind, loss in forms.items()]
    harness.compare(Case("acam_kd", f"P3 ... P7, batch {batch}, M=6", providers, minimum), benchmark)


def _sum(losses) -> torch.Tensor:
    """L^s + L^c + L_div."""
    return torch.stack(list(losses)).sum()
