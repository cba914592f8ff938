"""DIST (Huang et al. 2022): correlations between the probabilities of student and teacher, over classes and
over samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import compute_type, keep, possible
from kdfast.ops._divergence import one_class_dim
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable

EPS = 1e-8


def dist_loss_reference(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """The definition: T^2 (beta (1 - mean over rows of the correlation of a row's classes)
    + gamma (1 - mean over classes of the correlation of a class's rows)), on softmax(logits / T)."""
    compute = compute_type(student, teacher)
    s, t = (x.to(compute).reshape(-1, x.size(-1)) for x in (student, teacher.detach()))
    counted = possible(s) & possible(t)
    q, p = (keep(counted, (keep(counted, x) / temperature).softmax(-1)) for x in (s, t))
    rows = counted.sum().to(compute)
    some = torch.where(rows == 0, 1, rows)
    of_rows = _correlation(q - q.mean(-1, keepdim=True), p - p.mean(-1, keepdim=True), -1).sum() / some
    centred = (keep(counted, x - x.sum(0) / some) for x in (q, p))
    of_classes = _correlation(*centred, 0).mean()
    value = temperature**2 * (beta * (1 - of_rows) + gamma * (1 - of_classes))
    return torch.where(rows == 0, 0, value)


def _correlation(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Pearson's correlation of centred numbers; 0 where one of them is constant."""
    norms = torch.linalg.vector_norm(x, dim=dim) * torch.linalg.vector_norm(y, dim=dim)
    return (x * y).sum(dim) / (norms + EPS)


class DistLoss(Function):
    """The ops dist_loss and dist_loss_backward of a backend, as one differentiable function of the student.

    The forward pass keeps six numbers a row and four a class. A gradient made there would be no cheaper: it
    needs the classes' correlations, so that student and teacher are read once more in any case.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, kernels, temperature, beta, gamma):
        return backend.ops(kernels).dist_loss(student, teacher, temperature, beta, gamma)

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, ctx.kernels, *ctx.options = inputs
        _, *state = output
        ctx.mark_non_differentiable(*state)
        ctx.set_materialize_grads(False)
        ctx.name = "dist_loss"
        ctx.save_for_backward(student, teacher, *state)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        nothing = (None,) * 5
        if grad_value is None:
            return None, *nothing
        op = backend.ops(ctx.kernels).dist_loss_backward
        return op(grad_value, *ctx.saved_tensors, *ctx.options), *nothing


def dist_loss(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """T^2 (beta (1 - inter) + gamma (1 - intra)), DIST (Huang et al. 2022, eq. 7-9), from raw logits.

    inter: the mean over samples of the Pearson correlation between the student's and the teacher's class
    probabilities;
    intra: the mean over classes of the correlation between the probabilities that the samples give the class.
    A constant row or column (one sample alone, for intra) has correlation 0; 1e-8 is added to the product of
    norms, as published.

    Args:
        student, teacher: logits [..., C], at least two dimensions; all but the last are samples. The student
            gets the gradient.
        beta, gamma: weights of the two parts.
        temperature: T > 0.

    Returns:
        0-d float32 (float64 if an input is float64). A sample all of whose logits are -inf on a side is left
        out; 0 where there is no sample.

    Raises TypeError, ValueError or RuntimeError for bad input, before anything runs.
    """
    _check.logits_pair(student, teacher, -1)
    if student.dim() < 2:
        raise ValueError(f"student must be [samples, classes], got shape {tuple(student.shape)}")
    beta, gamma = _check.finite("beta", beta), _check.finite("gamma", gamma)
    temperature = _check.positive("temperature", temperature)
    kernels = backend.of(student, "dist_loss")
    if kernels == "reference":
        return dist_loss_reference(student, teacher, beta=beta, gamma=gamma, temperature=temperature)
    student, teacher, _ = one_class_dim(student, teacher.detach(), (student.dim() - 1,))
    return DistLoss.apply(student, teacher, kernels, temperature, beta, gamma)[0]


# ---- Fake kernels ----------------------------------------------------------------------------------------

_ROW, _COLUMN = 6, 4  # numbers kept of a row and of a class


def _fake(student, teacher, *_):
    new = lambda *shape: student.new_empty(shape, dtype=compute_type(student, teacher))  # noqa: E731
    classes = student.size(-1)
    return new(), new(_ROW, student.numel() // classes), new(_COLUMN, classes), new()


register_fake("dist_loss", _fake)
register_fake("dist_loss_backward", lambda upstream, student, *_: torch.empty_like(student))
