"""The sizes and providers of the divergences' benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import harness
import torch
from harness import Case, Provider
from torch import Tensor

# shape, class dimension, dtype
CPU_SIZES = [
    ((8, 1000), 1, torch.float32),
    ((256, 1000), 1, torch.float32),
    ((1024, 32000), 1, torch.float32),
    ((1024, 32000), 1, torch.bfloat16),
    ((4, 19, 128, 256), 1, torch.float32),
]
GPU_SIZES = [
    ((256, 1000), 1, torch.float32),
    ((4096, 32000), 1, torch.bfloat16),
    ((8192, 128256), 1, torch.bfloat16),
    ((4096, 128256), 1, torch.float32),
    ((16, 19, 512, 1024), 1, torch.bfloat16),
]


def sizes() -> list[tuple]:
    """The sizes for the device that is measured."""
    return GPU_SIZES if harness.device() == "cuda" else CPU_SIZES


def label(size: tuple) -> str:
    shape, dim, dtype = size
    return f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}" + (
        f" dim={dim}" if len(shape) > 2 else ""
    )


def pair(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Student (a leaf) and teacher logits, N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(shape, generator=generator).to(dtype).to(harness.device()) for _ in range(2)
    )
    return student.requires_grad_(), teacher


def case(op: str, size: tuple, ours: Callable, reference: Callable, smart: Callable, **keywords: Any) -> Case:
    """ours, reference and smart take (student, teacher, dim=...); smart is the best plain form of PyTorch."""
    shape, dim, dtype = size
    student, teacher = pair(shape, dtype)
    small = [x.detach()[:16] for x in (student, teacher)]
    call = lambda f: lambda s, t: f(s, t, dim=dim, **keywords)  # noqa: E731
    wide = [x.double() for x in small]
    truth = harness.gradient_of(call(reference), *wide)()
    torch._dynamo.reset()

    def provider(name: str, loss: Callable) -> Provider:
        return Provider(
            name, harness.training_step(loss, student, teacher), harness.gradient_of(loss, *small)
        )

    providers = [
        provider("kdfast", call(ours)),
        provider("reference", call(reference)),
        provider("eager", call(smart)),
        provider("torch.compile(reference)", torch.compile(call(reference))),
        provider("torch.compile", torch.compile(call(smart))),
        Provider("floor", harness.training_step(harness.floor, student, teacher)),
    ]
    return Case(op, label(size), providers, 3 * student.numel() * student.element_size(), truth)
