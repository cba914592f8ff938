"""Runs of the row losses' CUDA kernels on the emulated device, from torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from native.arrays import filled
from native.feature_runs import nothing, raw
from torch import Tensor


def run(
    native: Any,
    name: str,
    student: Tensor,
    *,
    outputs: int = 1,
    with_grad: bool = True,
    upstream: Sequence[Tensor] = (),
    teacher: Tensor | None = None,
    index: Tensor | None = None,
    sparse: Tensor | None = None,
    class_weight: Tensor | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Row values and weights of each output, and the gradient of their sum or under `upstream`.

    Of several outputs the values are made without the gradient, as the op does it.
    """
    wide = torch.float64 in [x.dtype for x in (student, teacher, sparse) if x is not None]
    kind, rows = "float64" if wide else "float32", student.shape[:-1]
    values, weights = ([filled(tuple(rows), kind) for _ in range(outputs)] for _ in range(2))
    grad = nothing(student) if with_grad else None
    if class_weight is not None:
        class_weight = torch.nn.functional.pad(class_weight, (0, -len(class_weight) % 16))
    native.row_loss(
        name, raw(student), teacher=raw(teacher), index=raw(index), sparse=raw(sparse),
        class_weight=raw(class_weight), mask=raw(mask), grad=raw(grad), values=[] if upstream else values,
        weights=[] if upstream else weights, upstream=[raw(x) for x in upstream], wide=wide, **options,
    )  # fmt: skip
    return [torch.from_numpy(x) for x in values], [torch.from_numpy(x) for x in weights], grad


def run_all(native: Any) -> None:
    """Every kernel once."""
    x = torch.randn(2, 5)
    run(native, "soft_cross_entropy", x, teacher=x.softmax(-1))
