"""What the divergences share in Python: the autograd function over the ops, their fakes, and the public call.

A room (kl_div.py, ...) holds its definition and its documentation. Two ways to the gradient, one rule: where
the loss is one number and the student is not float16, the gradient is made in the forward pass, since that
takes three streams of memory and not five, and nothing else is kept. Otherwise rows keep eight numbers each
and the gradient is recomputed: reduction="none" needs each row's own upstream factor, and in float16 a
gradient made before a loss scaler's factor is known would underflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._definition import compute_type, reduce_rows
from kdfast.ops._fake import register_fake
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable
from kdfast.ops.scale_grad import scale_grad

_ROW_STATE = 8
_MAX_DIMS = 7  # one class dimension and the six row dimensions that a kernel walks


class Divergence(Function):
    """The ops `name` and `name_backward` of a backend, as one differentiable function of the student."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student, teacher, mask, name, kernels, dim, temperature, scale, param, reduction, with_grad):
        op = getattr(backend.ops(kernels), name)
        return op(student, teacher, mask, dim, temperature, scale, param, reduction, with_grad)

    @staticmethod
    def setup_context(ctx, inputs, output):
        student, teacher, mask, name, kernels, dim, temperature, scale, param, _, with_grad = inputs
        _, grad, state, norm = output
        ctx.mark_non_differentiable(grad, state, norm)
        ctx.set_materialize_grads(False)
        ctx.name, ctx.kernels, ctx.with_grad = name, kernels, with_grad
        ctx.options = (dim, temperature, scale, param)
        if with_grad:
            ctx.save_for_backward(grad, norm)
        else:
            ctx.save_for_backward(student, teacher, mask, state, norm)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_value, *_):
        if grad_value is None:
            return (None,) * 11
        if ctx.with_grad:
            grad, norm = ctx.saved_tensors
            return scale_grad(grad, grad_value * norm, ctx.kernels), *(None,) * 10
        student, teacher, mask, state, norm = ctx.saved_tensors
        op = getattr(backend.ops(ctx.kernels), ctx.name + "_backward")
        return op(grad_value, norm, student, teacher, mask, state, *ctx.options), *(None,) * 10


def divergence(
    name: str,
    reference: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    dim: int | Sequence[int],
    mask: Tensor | None,
    scale_t2: bool,
    reduction: str,
    param: tuple[str, float] | None = None,
) -> Tensor:
    """Checks the arguments and calls the op `name` (or its reference, where that is the backend).

    param: the formula's own number, as the (keyword, value) that the reference takes.
    """
    if hasattr(student, "device_mesh"):
        keywords = {"temperature": temperature, "mask": mask, "scale_t2": scale_t2, "reduction": reduction}
        if param is not None:
            keywords[param[0]] = param[1]
        return of_shards(name, student, teacher, dim=dim, **keywords)
    class_dims = _check.logits_pair(student, teacher, dim)
    temperature = _check.positive("temperature", temperature)
    _check.flag("scale_t2", scale_t2)
    code = _check.reduction(reduction)
    if mask is not None:
        _check.row_mask(mask, [n for d, n in enumerate(student.shape) if d not in class_dims], student)
    kernels = backend.of(student, name)
    if kernels == "reference":
        keywords = {} if param is None else {param[0]: param[1]}
        return reference(
            student, teacher.detach(), temperature=temperature, dim=class_dims, mask=mask, scale_t2=scale_t2,
            reduction=reduction, **keywords,
        )  # fmt: skip
    if code == _check.REDUCTIONS["batchmean"] and 0 in class_dims:
        batch, code = student.size(0), _check.REDUCTIONS["sum"]
    else:
        batch = 1
    student, teacher, class_dims = one_class_dim(student, teacher, class_dims)
    if mask is not None:
        mask = mask.detach().to(compute_type(student, teacher)).reshape(-1)
    value = Divergence.apply(
        student,
        teacher.detach(),
        mask,
        name,
        kernels,
        class_dims,
        temperature,
        temperature**2 if scale_t2 else 1.0,
        0.0 if param is None else param[1],
        code,
        code != 0 and student.requires_grad and torch.is_grad_enabled() and student.dtype != torch.float16,
    )[0]
    return value if batch == 1 else value / batch


def of_shards(name: str, student: Tensor, *others: Tensor, dim: int | Sequence[int] = -1, **options):
    """The loss `name` of a DTensor, whose classes may lie on several ranks."""
    from kdfast import vocab_parallel

    if _check.dims(dim, student.dim()) != (student.dim() - 1,):
        raise ValueError(f"{name} of DTensors takes classes along the last dimension, got dim={dim}")
    return getattr(vocab_parallel, name)(student, *others, **options)


def one_class_dim(
    student: Tensor, teacher: Tensor | None, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor | None, list[int]]:
    """Joins class dimensions into one, at the end: a view where memory allows it, else a copy."""
    if len(dims) == 1 and student.dim() <= _MAX_DIMS:
        return student, teacher, list(dims)

    def join(x: Tensor) -> Tensor:
        x = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
        return x.flatten(0, -2) if x.dim() > _MAX_DIMS else x

    student = join(student)
    return student, None if teacher is None else join(teacher), [student.dim() - 1]


# ---- Fake kernels ------------------------------------------------------------------------------------------


def _fake(student, teacher, mask, dim, temperature, scale, param, reduction, with_grad):
    compute = compute_type(student, teacher)
    sizes = [n for d, n in enumerate(student.shape) if d not in dim]
    rows = 1
    for n in sizes:
        rows *= n
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, dtype=compute)
    state = student.new_empty((0 if with_grad else rows, _ROW_STATE), dtype=compute)
    value = student.new_empty(sizes if reduction == 0 else (), dtype=compute)
    return value, grad, state, student.new_empty((), dtype=compute)


def _fake_backward(grad_value, norm, student, *_):
    return torch.empty_like(student)


def register_fakes(name: str) -> None:
    """Fake kernels of torch.ops.kdfast.<name> and <name>_backward, where the native library is there."""
    register_fake(name, _fake)
    register_fake(f"{name}_backward", _fake_backward)


# ---- What the definitions share ----------------------------------------------------------------------------


def reference_rows(
    row: Callable[[Tensor, Tensor], Tensor],
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    dim: int | Sequence[int],
    mask: Tensor | None,
    scale_t2: bool,
    reduction: str,
) -> Tensor:
    """The frame of a divergence's definition: `row` maps log q and log p, classes last, to one number per
    row."""
    dims = _check.dims(dim, student.dim())
    last = list(range(-len(dims), 0))
    compute = compute_type(student, teacher)
    s, t = (x.to(compute).movedim(dims, last).flatten(-len(dims)) for x in (student, teacher.detach()))
    weight = (
        torch.ones(s.shape[:-1], dtype=compute, device=s.device)
        if mask is None
        else mask.detach().to(compute)
    )
    counted = (s != -torch.inf).any(-1) & (t != -torch.inf).any(-1) & (weight != 0)
    s, t = (torch.where(counted.unsqueeze(-1), x / temperature, 0) for x in (s, t))
    value = row(s.log_softmax(-1), t.log_softmax(-1)) * (temperature**2 if scale_t2 else 1)
    weight = torch.where(counted, weight, 0)
    value = torch.where(counted, value, 0) * weight
    return reduce_rows(value, weight, reduction, student.size(0) if student.dim() else 1)
