"""What the benchmarks of the losses on features share: maps, and the providers of one loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import harness
import torch
from harness import Case, Provider
from torch import Tensor


def noise(shape: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """N(0, 1) on the device that is measured."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator).to(dtype).to(harness.device())


def case(
    op: str,
    name: str,
    student: Tensor,
    teacher: Tensor,
    ours: Callable,
    plain: dict[str, Callable],
    extra_bytes: int = 0,
) -> Case:
    """ours and plain take (student, teacher); every plain form but the naive ones is also compiled."""
    leaf = student.requires_grad_()
    values = student.detach()
    truth_of = list(plain.values())[-1]
    truth = harness.gradient_of(truth_of, values.double(), teacher.double())()
    torch._dynamo.reset()

    def provider(name: str, loss: Callable) -> Provider:
        return Provider(
            name, harness.training_step(loss, leaf, teacher), harness.gradient_of(loss, values, teacher)
        )

    providers = [provider("kdfast", ours), *(provider(name, loss) for name, loss in plain.items())]
    providers.append(provider("torch.compile", torch.compile(truth_of)))
    providers.append(Provider("floor", harness.training_step(harness.floor, leaf, teacher)))
    return Case(op, name, providers, 3 * student.numel() * student.element_size() + extra_bytes, truth)
