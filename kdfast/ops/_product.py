"""Matrix products outside autocast in both directions: autograd's own backward pass of a product runs under
whatever autocast surrounds `backward()`, and would round its operands to bfloat16 there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Product(torch.autograd.Function):
    """a @ b of equal batch dimensions; its gradients are products of the same kind, to any order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast(a.device.type, enabled=False):
            return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return product(grad, b.mT) if wanted[0] else None, product(a.mT, grad) if wanted[1] else None


def product(a: Tensor, b: Tensor) -> Tensor:
    """a [..., n, k] @ b [..., k, m] in their own dtype, whatever autocast is on, forward and backward."""
    return _Product.apply(a, b)
