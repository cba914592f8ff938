"""The two terms of CLoCKDistill at the paper's sizes, forward and backward: kdfast against the plain forms.

lcmd: memories of 2 images of 800 x 1333 with strides 8 to 64 (22,223 tokens of 256 features), 20 boxes each.
tcld: 6 decoder layers, 80 classes, 2 images; 60 queries an image (20 objects, 3 copies), and 300 more.
"authors' style" rasterises box by box and takes GIoU from the matrix of all pairs; "plain" does neither.
"""

import harness
import pytest
import torch
import torch.nn.functional as F
from harness import Case, Provider

import kdfast.functional as KF
from kdfast.ops.box_loss import box_loss_reference
from kdfast.ops.box_weighted_mse import box_weighted_mse_reference
from kdfast.recipes.clock_distill import plain
from kdfast.recipes.clock_distill.inject import DetrOutput
from kdfast.recipes.clock_distill.losses import ConsistentLogitDistillation, confidences

SHAPES = [(100, 167), (50, 84), (25, 42), (13, 21)]
IMAGES, OBJECTS, DIM, LAYERS, CLASSES = 2, 20, 256, 6, 80


def boxes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    size = torch.rand(count, 2, generator=generator) * 0.3 + 0.02
    center = size / 2 + torch.rand(count, 2, generator=generator) * (1 - size)
    return torch.cat([center, size], 1).to(harness.device())


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(harness.device())


def run(benchmark, op, name, leaf, others, forms, minimum, truth):
    torch._dynamo.reset()
    forms = forms | {"torch.compile": torch.compile(forms["plain"])}
    values = leaf.detach()
    providers = [
        Provider(label, harness.training_step(f, leaf, *others), harness.gradient_of(f, values, *others))
        for label, f in forms.items()
    ]
    harness.compare(Case(op, name, providers, minimum, truth), benchmark)


def test_lcmd(benchmark):
    tokens = sum(h * w for h, w in SHAPES)
    student, teacher = noise(IMAGES, tokens, DIM, seed=0).requires_grad_(), noise(IMAGES, tokens, DIM, seed=1)
    own = [boxes(OBJECTS) for _ in range(IMAGES)]
    forms = {
        "kdfast": lambda s, t: KF.box_weighted_mse(s, t, own, SHAPES),
        "authors' style": lambda s, t: plain.memory_of(s, t, own, SHAPES),
        "plain": lambda s, t: box_weighted_mse_reference(s, t, own, SHAPES),
    }
    truth = harness.gradient_of(forms["plain"], student.detach().double(), teacher.double())()
    name = f"{IMAGES}x{tokens}x{DIM}"
    run(benchmark, "clock_distill_lcmd", name, student, (teacher,), forms, 3 * student.nbytes, truth)


@pytest.mark.parametrize("queries", [60, 360])
def test_tcld(benchmark, queries):
    logits = [noise(LAYERS, IMAGES, queries, CLASSES, seed=seed) for seed in (0, 1)]
    fixed = boxes(LAYERS * IMAGES * queries).view(LAYERS, IMAGES, queries, 4)
    moved = (fixed + 0.02 * noise(*fixed.shape, seed=2)).clamp(0.01, 0.99).requires_grad_()
    real = torch.ones(IMAGES, queries, dtype=torch.bool, device=harness.device())
    student = logits[0].requires_grad_()
    loss = ConsistentLogitDistillation()

    def output(z, b):
        return DetrOutput(None, None, None, {}, None, None, [], None, z, b, real)

    def ours(z):
        return loss(output(z, moved), output(logits[1], fixed))

    def authors(z):
        return plain.logits_of(z, logits[1].to(z), moved, fixed, real)

    def best(z):
        teacher = logits[1].to(z)
        w = confidences(teacher, real)
        soft, log_q = (teacher / 10).softmax(-1), (z / 10).log_softmax(-1)
        rows = F.kl_div(log_q, soft, reduction="none").sum(-1)
        value = box_loss_reference(moved, fixed, weight=w, reduction="none")
        return (w * rows).sum() * 100 / CLASSES + (value.sum((1, 2)) / w.sum((1, 2))).sum()

    forms = {"kdfast": ours, "authors' style": authors, "plain": best}
    truth = harness.gradient_of(best, student.detach().double())()
    name = f"{LAYERS}x{IMAGES}x{queries}x{CLASSES}"
    run(benchmark, "clock_distill_tcld", name, student, (), forms, 3 * student.nbytes, truth)
