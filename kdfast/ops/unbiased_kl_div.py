"""The unbiased distillation of Dynamic Y-KD (after MiB, Cermelli et al. 2020): new classes count as
background.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import compute_type, dot_possible, keep, log_sum_exp, possible, reduce_rows
from kdfast.ops._row_loss import register_fakes, row_loss


def unbiased_kl_div_reference(
    student: Tensor, teacher: Tensor, *, num_new: int, reduction: str = "mean"
) -> Tensor:
    """The definition: -1/K sum over the teacher's K classes of q log p~.

    q = softmax(teacher); p~ is the student's softmax with its last num_new classes added to class 0.
    """
    compute = compute_type(student, teacher)
    s, t = student.to(compute), teacher.detach().to(compute)
    counted = possible(s) & possible(t)
    log_p = keep(counted, s).log_softmax(-1)
    old, new = log_p[..., 1 : teacher.size(-1)], log_p[..., teacher.size(-1) :]
    background = log_sum_exp(torch.cat((log_p[..., :1], new), -1))
    folded = torch.cat((background.unsqueeze(-1), old), -1)
    q = keep(counted, t).softmax(-1)
    value = torch.where(counted, -dot_possible(q, folded) / q.size(-1), 0)
    return reduce_rows(value, counted.to(compute), reduction, student.size(0))


def unbiased_kl_div(student: Tensor, teacher: Tensor, *, num_new: int, reduction: str = "mean") -> Tensor:
    """Distils an old head into one that knows more classes (Dynamic Y-KD, the classification term of its
    distillation).

    A row's value is -1/K sum over the teacher's K classes of q log p~, with q = softmax(teacher), p~_0 = the
    student's probability of class 0 (background) and of its last num_new classes together, and p~_c = its
    probability of class c. There is no entropy term: the value is a cross entropy, its gradient that of the
    KL divergence divided by K.

    Args:
        student: logits [..., K + num_new]. Gets the gradient.
        teacher: logits [..., K]; a constant. Class 0 is background on both sides.
        num_new: how many of the student's classes are new, at least 0.
        reduction: "mean" (sum / number of counted rows), "sum", "batchmean" (sum / size(0)) or "none".

    Returns:
        float32 (float64 if an input is float64), 0-d or [...]. A row all of whose logits are -inf on a side
        is 0 and not counted.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check.logits("student", student)
    _check.logits("teacher", teacher)
    num_new = _check.whole_number("num_new", num_new, 0)
    if (*student.shape[:-1], student.size(-1) - num_new) != tuple(teacher.shape):
        raise ValueError(
            f"student must have the teacher's shape with num_new={num_new} more classes, last: got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    _check.same_device("student", student, "teacher", teacher)
    _check.reduction(reduction)
    kernels = backend.of(student, "unbiased_kl_div")
    if kernels != "reference":
        return row_loss(
            "unbiased_kl_div", kernels, student,
            teacher=teacher, dim=(student.dim() - 1,), reduction=reduction, a=float(teacher.size(-1)),
        )[0]  # fmt: skip
    return unbiased_kl_div_reference(student, teacher, num_new=num_new, reduction=reduction)


register_fakes("unbiased_kl_div")


def example(generator: torch.Generator) -> tuple[list, dict]:
    """Small arguments, for the self check."""
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return [make(2, 5, 9), make(2, 5, 7)], {"num_new": 2}
