"""Frozen: a module used but not trained, not saved and not sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from kdfast.distill.recorder import check_module


class Frozen(nn.Module):
    """Hold a module frozen and unregistered: a teacher, or a teacher stage that gradients must pass through.

    module: frozen in place (`requires_grad_(False)`, `eval()`, and cast to `dtype` if given). It stays in
        eval mode whatever `.train()` says, is in neither `parameters()` nor `state_dict()`, so that
        optimizers, DDP, FSDP and checkpoints of an outer module do not see it, and follows `.to(device)` of
        an outer module, but not its dtype.
    dtype: a floating-point dtype for the module, or None to leave it.
    grad: False runs it without gradients. True (ScaleKD's last teacher stage) lets gradients pass through to
        its inputs, never into its parameters.

    Floating-point arguments are cast to the module's dtype (that of its first floating-point parameter).
    """

    def __init__(self, module: nn.Module, *, dtype: torch.dtype | None = None, grad: bool = True):
        super().__init__()
        check_module(module, "module")
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating-point torch.dtype or None, got {dtype!r}")
        module.requires_grad_(False).eval()
        if dtype is not None:
            module.to(dtype)
        object.__setattr__(self, "module", module)  # around nn.Module's registration
        self.grad = grad
        self._dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.module.training:  # someone called train() on the module itself
            self.module.eval()
        if self._dtype is not None:
            args, kwargs = tree_map_only(torch.Tensor, self._cast, (args, kwargs))
        with torch.set_grad_enabled(self.grad and torch.is_grad_enabled()):
            return self.module(*args, **kwargs)

    def _cast(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._dtype) if x.is_floating_point() else x

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Frozen:
        """Follow a move of the outer module to a device; its changes of dtype pass by."""
        super()._apply(fn, recurse)
        tensors = [*self.module.parameters(), *self.module.buffers()]
        for device in {t.device for t in tensors}:
            target = fn(torch.empty(0, device=device)).device
            if target != device:
                self.module.to(target)
        return self

    def extra_repr(self) -> str:
        return f"{type(self.module).__name__}, grad={self.grad}"
