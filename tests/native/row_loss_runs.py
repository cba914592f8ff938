"""Runs of the row losses' CUDA kernels on the emulated device, from torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from native.arrays import filled
from native.feature_runs import nothing, raw
from torch import Tensor

STATE = {"cross_entropy_kl_div": 9}  # numbers that a loss keeps of a row


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

    What a loss keeps of its rows is made by a forward pass before the backward pass, as the ops do it.
    """
    wide = torch.float64 in [x.dtype for x in (student, teacher, sparse) if x is not None]
    kind, rows = "float64" if wide else "float32", student.shape[:-1]
    values, weights = ([filled(tuple(rows), kind) for _ in range(outputs)] for _ in range(2))
    grad = nothing(student) if with_grad else None
    if class_weight is not None:
        class_weight = torch.nn.functional.pad(class_weight, (0, -len(class_weight) % 16))
    state = filled((rows.numel(), STATE[name]), kind) if name in STATE else None
    inputs = {
        "teacher": raw(teacher),
        "index": raw(index),
        "sparse": raw(sparse),
        "wide": wide,
        "state": state,
    }
    inputs |= {"class_weight": raw(class_weight), "mask": raw(mask), **options}
    if upstream and state is not None:
        native.row_loss(name, raw(student), values=values, weights=weights, **inputs)
    outs = {"upstream": [raw(x) for x in upstream]} if upstream else {"values": values, "weights": weights}
    native.row_loss(name, raw(student), grad=raw(grad), **inputs, **outs)
    return [torch.from_numpy(x) for x in values], [torch.from_numpy(x) for x in weights], grad


def dist_loss(
    native: Any,
    student: Tensor,
    teacher: Tensor,
    *,
    block_rows: int = 4,
    upstream: float = 1.0,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """The loss and the gradient under `upstream`."""
    kind = "float64" if torch.float64 in (student.dtype, teacher.dtype) else "float32"
    rows, classes = student[..., 0].numel(), student.size(-1)
    blocks, grad, new = -(-rows // block_rows), nothing(student), lambda *shape: filled(shape, kind)
    loss = new(1)
    native.dist_loss(
        raw(student), raw(teacher), rows=new(6, rows), row_value=new(rows), moments=new(blocks, 6, classes),
        counts=new(blocks), columns=new(4, classes), column_value=new(classes), loss=loss, norm=new(1),
        grad=raw(grad), upstream=np.full(1, upstream, kind), block_rows=block_rows, **options,
    )  # fmt: skip
    return torch.from_numpy(loss)[0], grad


def run_all(native: Any) -> None:
    """Every kernel once."""
    x = torch.randn(2, 5)
    run(native, "soft_cross_entropy", x, teacher=x.softmax(-1))
    dist_loss(native, x, x.clone())
