"""A benchmark case of a loss on logits: kdfast against its definition, the best plain form, and torch.compile
of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import harness
import torch
from harness import Case, Provider
from torch import Tensor


def logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Student (a leaf) and teacher, N(0, 1)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(shape, generator=generator).to(dtype).to(harness.device()) for _ in range(2)
    )
    return student.requires_grad_(), teacher


def targets(rows: int, classes: int) -> Tensor:
    """Class numbers."""
    return (torch.arange(rows, device=harness.device()) * 7919) % classes


def case(
    op: str,
    name: str,
    student: Tensor,
    others: tuple[Any, ...],
    ours: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    smart: Callable[..., Tensor],
    read: int,
) -> Case:
    """Every loss takes (student, *others) and gives one number; read: bytes of the inputs beside the
    student.
    """
    wide = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in others]
    truth = harness.gradient_of(reference, student.detach().double(), *wide)()
    torch._dynamo.reset()

    def provider(name: str, loss: Callable[..., Tensor]) -> Provider:
        step = harness.training_step(loss, student, *others)
        return Provider(name, step, harness.gradient_of(loss, student, *others))

    providers = [
        provider("kdfast", ours),
        provider("reference", reference),
        provider("eager", smart),
        provider("torch.compile(reference)", torch.compile(reference)),
        provider("torch.compile", torch.compile(smart)),
    ]
    return Case(op, name, providers, 2 * student.numel() * student.element_size() + read, truth)
