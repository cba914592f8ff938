"""attention_map_kl, forward and backward, against the maps in memory."""

import features
import harness
import pytest
import torch
import torch.nn.functional as F
from harness import Case, Provider

import kdfast.functional as KF

# Heads, length, head dims of student and teacher.
SIZES = [(8, 196, 64, 96), (8, 1024, 64, 64), (1, 4096, 64, 128)]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "h{} L={} d={},{}".format(*s))
def test_attention_map_kl(benchmark, size):
    heads, length, width, wide = size
    sq, sk = (features.noise((1, heads, length, width), seed=seed).requires_grad_() for seed in (0, 1))
    tq, tk = (features.noise((1, heads, length, wide), seed=seed) for seed in (2, 3))

    def eager(sq, sk, tq, tk):
        student = (sq @ sk.mT * width**-0.5).log_softmax(-1)
        teacher = (tq @ tk.mT * wide**-0.5).log_softmax(-1)
        return F.kl_div(student, teacher, reduction="sum", log_target=True) / student[..., 0].numel()

    def provider(name, form):
        def step():
            form(sq, sk, tq, tk).backward()
            sq.grad = sk.grad = None

        return Provider(name, step, harness.gradient_of(form, sq.detach(), sk.detach(), tq, tk))

    torch._dynamo.reset()
    truth = harness.gradient_of(eager, *(x.detach().double() for x in (sq, sk, tq, tk)))()
    forms = {"kdfast": KF.attention_map_kl, "eager": eager, "torch.compile": torch.compile(eager)}
    providers = [provider(name, form) for name, form in forms.items()]
    flops = heads * length**2 * (6 * width + 2 * wide)
    name = "h{} L={} d={},{}".format(*size)
    numbers = 2 * (sq.numel() + sk.numel()) + tq.numel() + tk.numel()
    harness.compare(Case("attention_map_kl", name, providers, 4 * numbers, truth, flops), benchmark)
