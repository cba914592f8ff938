"""Class numbers as the definitions read them: checked on the CPU, where looking costs nothing, compiled or
not.

Native kernels make the same check inside their own op, so this one serves only where a definition is what
runs. On a GPU contents are never read back: there an index that is out of range asserts on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("kdfast_definition", "DEF")
_library.define("checked_index(Tensor index, Tensor? counted, int classes, str name) -> Tensor")


def _on_cpu(index: Tensor, counted: Tensor | None, classes: int, name: str) -> Tensor:
    outside = (index < 0) | (index >= classes)
    if counted is not None:
        outside &= counted
    if outside.any():
        given = index[outside][0].item()
        raise ValueError(f"{name} must hold class numbers in [0, {classes - 1}], got {given}")
    return index.clone() if counted is None else torch.where(counted, index, 0)


def _elsewhere(index: Tensor, counted: Tensor | None, classes: int, name: str) -> Tensor:
    return index.clone() if counted is None else torch.where(counted, index, 0)


_library.impl("checked_index", _elsewhere, "CompositeExplicitAutograd")
_library.impl("checked_index", _on_cpu, "CPU")
torch.library.register_fake(
    "kdfast_definition::checked_index",
    lambda index, counted, classes, name: torch.empty_like(index),
    lib=_library,
)


def checked(name: str, index: Tensor, classes: int, counted: Tensor | None = None) -> Tensor:
    """index as int64; 0 where `counted` (a bool tensor of its shape) says that nobody looks at it.

    Raises ValueError on the CPU where a counted index is outside [0, classes).
    """
    return torch.ops.kdfast_definition.checked_index(index.detach().long(), counted, classes, name)
