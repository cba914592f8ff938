"""linear_kl_div, forward and backward to hidden and weight, against the materialised forms: time and
memory.
"""

import harness
import pytest
import torch
from harness import Case, Provider

import kdfast.functional as KF

# rows, hidden, classes
SIZES = [(2048, 512, 32000)] if harness.device() == "cpu" else [(2048, 4096, 32000), (8192, 4096, 128256)]


def materialised(hidden, weight, teacher_hidden, teacher_weight):
    """The heads' products, then kdfast's kl_div: all logits in memory."""
    return KF.kl_div(hidden @ weight.t(), teacher_hidden @ teacher_weight.t())


def eager(hidden, weight, teacher_hidden, teacher_weight):
    """Plain PyTorch."""
    log_q = (hidden @ weight.t()).float().log_softmax(-1)
    log_p = (teacher_hidden @ teacher_weight.t()).float().log_softmax(-1)
    return torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


@pytest.mark.parametrize("rows, features, classes", SIZES)
def test_linear_kl_div(benchmark, rows, features, classes):
    dtype = torch.float32 if harness.device() == "cpu" else torch.bfloat16
    new = lambda *shape: torch.randn(shape).to(dtype).to(harness.device())  # noqa: E731
    hidden, weight = new(rows, features).requires_grad_(), (new(classes, features) / features**0.5)
    teacher = new(rows, features), new(classes, features) / features**0.5
    weight.requires_grad_()

    def step(loss):
        def run():
            loss(hidden, weight, *teacher).backward()
            hidden.grad = weight.grad = None

        return run

    providers = [
        Provider("kdfast", step(KF.linear_kl_div)),
        Provider("materialised, kdfast.kl_div", step(materialised)),
        Provider("eager", step(eager)),
        Provider("torch.compile", step(torch.compile(eager))),
    ]
    size = weight.element_size()
    moved = size * (3 * weight.numel() + 3 * hidden.numel())
    flops = 8 * rows * features * classes  # four products: two logits, two gradients
    case = Case("linear_kl_div", f"{rows}x{features} -> {classes}", providers, moved, flops=flops)
    harness.compare(case, benchmark)
