"""Multiplies a gradient that was made in the forward pass by what arrives from upstream, in place where that
is safe.

The op behind it is `scale_grad_(Tensor(a!) grad, Tensor factor)`. A factor of exactly 1, the usual case,
costs no pass over memory.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops._fake import register_fake

# Whether the running backward pass keeps its graph (retain_graph=True). A torch without this query counts as
# keeping.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def keeps_grad() -> bool:
    """Whether a gradient saved by the forward pass may be wanted again, so that it must not be written to."""
    in_torch_func = torch._C._functorch.maybe_current_level() is not None
    return torch.compiler.is_compiling() or in_torch_func or _keeps_graph()


def scale_grad_reference(grad: Tensor, factor: Tensor) -> Tensor:
    """grad * factor, in grad's dtype."""
    return (grad.to(factor.dtype) * factor).to(grad.dtype)


def scale_grad(grad: Tensor, factor: Tensor, kernels: str) -> Tensor:
    """grad * factor for a saved gradient and a 0-d float32 or float64 factor.

    In place only where this backward pass is the last use of the saved tensor: a graph that is kept may come
    back for it, torch.compile decides about buffers itself, and torch.func has no place to write to.
    """
    if keeps_grad():
        return scale_grad_reference(grad, factor)
    backend.ops(kernels).scale_grad_(grad, factor)
    return grad


register_fake("scale_grad_", lambda grad, factor: None)
