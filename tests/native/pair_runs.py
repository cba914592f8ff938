"""Runs of the CUDA kernels over pairs on the emulated device, from torch tensors: what the ops do around
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from native.arrays import filled
from native.feature_runs import nothing, raw
from torch import Tensor

RUN = 1024


def _run(native, name, student, teacher, grads, values, **options) -> tuple[list[Tensor], Tensor]:
    """student, teacher, grads: each number of a point, [rows, groups, points]. -> values, value of points."""
    rows, groups, points = student[0].shape
    wide = torch.float64 in [x.dtype for x in (*student, *teacher)]
    kind = "float64" if wide else "float32"
    part = filled((rows * groups * -(-points // RUN), 2), kind)
    sums, of_points = [filled((1,), kind) for _ in range(values)], filled((rows, groups, points), kind)
    options = {"scale": [1.0] * values} | {
        k: [raw(x) for x in v] if k == "upstream" else raw(v) if isinstance(v, Tensor) else v
        for k, v in options.items()
    }
    native.pairs(name, [raw(x) for x in student], [raw(x) for x in teacher], grad=[raw(x) for x in grads],
                 part=part, values=sums, point_value=of_points, wide=wide, **options)  # fmt: skip
    return [torch.from_numpy(x) for x in sums], torch.from_numpy(of_points)


def rows(native: Any, name: str, student: Tensor, teacher: Tensor, first: int, **options: Any):
    """student [R, m], teacher [R, n], paired from number `first` on: sum and gradient."""
    grad = nothing(student)
    cut = lambda x: x[:, None, first : teacher.size(1)]  # noqa: E731
    after = student.size(1) - teacher.size(1)
    (value,), _ = _run(native, name, [cut(student)], [cut(teacher)], [cut(grad)], 1,
                       before=first, after=after, whole_grad=raw(grad), **options)  # fmt: skip
    return value, grad


def boxes(native: Any, student: Tensor, teacher: Tensor, l1: float, giou: float, **options: Any):
    """Boxes [N, 4]: sum, value of each, gradient."""
    grad = nothing(student)
    coordinates = lambda x: [x[None, None, :, j] for j in range(4)]  # noqa: E731
    (value,), each = _run(native, "box_loss", coordinates(student), coordinates(teacher), coordinates(grad),
                          1, whole_grad=raw(grad), param=[l1, giou], **options)  # fmt: skip
    return value, each.flatten(), grad


def anchors(native: Any, maps: Sequence[Tensor], threshold: float, **options: Any):
    """Student and teacher logits [B, A, P], student and teacher deltas [B, 4 A, P]: two sums, two
    gradients.
    """
    so, to, sd, td = maps
    grads = nothing(so), nothing(sd)
    numbers = lambda o, d: [o, *(d[:, j::4] for j in range(4))]  # noqa: E731
    values, _ = _run(native, "rpn_distill", numbers(so, sd), numbers(to, td), numbers(*grads), 2,
                     param=[threshold], **options)  # fmt: skip
    return values, grads


def run_all(native: Any) -> None:
    """Every kernel once."""
    x = torch.rand(3, 12)
    rows(native, "soft_bce", x, x, 0)
    rows(native, "class_box_l2", x, x[:, :8], 4)
    boxes(native, x[:, :4].contiguous(), x[:, 4:8].contiguous(), 5.0, 2.0)
    anchors(native, [x[:, None], x[:, None], x.repeat(1, 4).reshape(3, 4, 12), torch.rand(3, 4, 12)], 0.1)
