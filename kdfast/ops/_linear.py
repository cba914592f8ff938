"""Heads and divergence in chunks of rows: what linear_kl_div runs, so that logits [N, C] are never all in
memory.

A chunk's student and teacher logits are made by matrix products (operands in the inputs' dtype, float32
sums), the fused divergence turns them into row values and the student logits' gradient, and that goes
straight into the gradients of the hidden rows and, summed in float32 over the chunks, of the weight and bias.
So a scalar loss needs no second pass, and what is kept until the backward pass are gradients of the inputs'
size.

The chunk's size. Each chunk costs a fixed number of launches and matrix products that get slow if they are
thin, so there are at most CHUNKS of them and none has less than LEAST_ROWS rows; only a chunk whose three
arrays of C numbers a row would take more than MOST_BYTES is made smaller than that.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kdfast import backend
from kdfast.ops import _check
from kdfast.ops._function import Function
from kdfast.ops._once import once_differentiable

CHUNKS = 8
LEAST_ROWS = 256
MOST_BYTES = 2**30
_ARRAYS = 3  # student logits, teacher logits, gradient
REGIME, UNCOUNTED = 6, -1  # of the divergences' row state: csrc/common/divergence.h


class Options(NamedTuple):
    """What a chunk needs to know beside its tensors; `name` is the divergence's op."""

    name: str
    kernels: str
    temperature: float
    scale: float
    param: float
    compute: torch.dtype
    chunk: int


def rows_of_chunk(rows: int, classes: int, compute: torch.dtype) -> int:
    """How many rows a chunk has by default: see the head of this file."""
    bytes_of_row = _ARRAYS * classes * compute.itemsize
    by_memory = max(1, MOST_BYTES // bytes_of_row)
    return max(1, min(max(-(-rows // CHUNKS), LEAST_ROWS), by_memory, rows))


class Head(NamedTuple):
    """Logits of some rows, hidden [N, H] @ weight [C, H]^T + bias [C], written into one buffer again and
    again.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    buffer: Tensor  # [chunk, C] of the compute type

    @staticmethod
    def of(hidden: Tensor, weight: Tensor, bias: Tensor | None, options: Options) -> Head:
        operand = operand_type(hidden, weight, options.compute)
        buffer = hidden.new_empty((options.chunk, weight.size(0)), dtype=options.compute)
        bias = None if bias is None else bias.detach().to(options.compute)
        return Head(hidden.detach().to(operand), weight.detach().to(operand), bias, buffer)

    def logits(self, first: int, last: int) -> Tensor:
        out = product(self.hidden[first:last], self.weight.t(), self.buffer[: last - first])
        return out if self.bias is None else out.add_(self.bias)


def operand_type(hidden: Tensor, weight: Tensor, compute: torch.dtype) -> torch.dtype:
    """The dtype matrix products take: the inputs' own on a GPU; on a CPU, where half precision is slow, the
    sums' type.
    """
    if hidden.dtype == weight.dtype and hidden.device.type == "cuda":
        return hidden.dtype
    return compute


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a @ b, summed and stored in out's dtype."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return out.copy_(torch.mm(a, b, out_dtype=out.dtype))


def add_product(a: Tensor, b: Tensor, total: Tensor) -> None:
    """total += a @ b, summed in total's dtype."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += torch.mm(a, b, out_dtype=total.dtype)


class _Chunk(NamedTuple):
    value: Tensor  # [n]
    state: Tensor
    norm: Tensor


def _values(options: Options, s: Tensor, t: Tensor, mask: Tensor | None) -> _Chunk:
    """Row values of a chunk and what their gradient needs."""
    op = getattr(backend.ops(options.kernels), options.name)
    code = _check.REDUCTIONS["none"]
    value, _, state, norm = op(
        s, t, mask, [1], options.temperature, options.scale, options.param, code, False
    )
    return _Chunk(value, state, norm)


def _gradient(
    options: Options, chunk: _Chunk, factor: Tensor, s: Tensor, t: Tensor, mask: Tensor | None
) -> Tensor:
    """The gradient with respect to a chunk's student logits, rows times `factor` [n]."""
    op = getattr(backend.ops(options.kernels), options.name + "_backward")
    return op(
        factor, chunk.norm, s, t, mask, chunk.state, [1], options.temperature, options.scale, options.param
    )


class Gradients:
    """Where a chunk's gradient goes: hidden rows, and sums for weight and bias. None where nobody wants
    them.
    """

    def __init__(self, student: Head, compute: torch.dtype, wanted: tuple[bool, bool, bool]) -> None:
        new = lambda like: like.new_zeros(like.shape, dtype=compute)  # noqa: E731
        self.head = student
        self.hidden = new(student.hidden) if wanted[0] else None
        self.weight = new(student.weight) if wanted[1] else None
        self.bias = new(student.bias) if wanted[2] else None

    def add(self, grad: Tensor, first: int, last: int) -> None:
        """grad [n, C] of the logits of rows first ... last - 1."""
        if self.bias is not None:
            self.bias += grad.sum(0)
        operand = self.head.hidden.dtype
        if operand != grad.dtype:
            # In float16 most gradients would fall below its range: powers of two move them into it and back.
            shift = 2.0**12 if operand == torch.float16 else 1.0
            grad = (grad * shift).to(operand)
        else:
            shift = 1.0
        if self.hidden is not None:
            product(grad, self.head.weight, self.hidden[first:last])
            if shift != 1:
                self.hidden[first:last] /= shift
        if self.weight is not None:
            rows = self.head.hidden[first:last]
            add_product(grad.t(), rows if shift == 1 else rows / shift, self.weight)


class LinearDivergence(Function):
    """Both heads, the divergence of their logits and its gradients, chunk by chunk.

    with_grad: the value is the rows' sum, and its gradients are made in forward. Otherwise it is one value
    per row, and backward goes over the chunks again with each row's upstream factor.
    """

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _in_turn(LinearDivergence, info.batch_size, in_dims, arguments)

    @staticmethod
    def forward(
        hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, mask, options, wanted, with_grad
    ):
        with torch.autocast(hidden.device.type, enabled=False):
            inputs = (hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias)
            value, counted, gradients = _forward(inputs, mask, options, wanted if with_grad else (False,) * 3)
        value = value.sum() if with_grad else value
        empty = value.new_empty(0)
        grads = (gradients.hidden, gradients.weight, gradients.bias)
        return value, counted, *(empty.clone() if g is None else g for g in grads)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, options, wanted, with_grad = inputs
        value, counted, *grads = output
        ctx.mark_non_differentiable(counted, *grads)
        ctx.set_materialize_grads(False)
        ctx.name, ctx.options, ctx.wanted, ctx.with_grad = "linear_kl_div", options, wanted, with_grad
        ctx.dtypes = [None if x is None else x.dtype for x in tensors[:3]]
        ctx.save_for_backward(*(grads if with_grad else tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream, *_):
        nothing = (None,) * 10
        if upstream is None:
            return nothing
        with torch.autocast(upstream.device.type, enabled=False):
            if ctx.with_grad:
                grads = [
                    g * upstream if want else None
                    for g, want in zip(ctx.saved_tensors, ctx.wanted, strict=True)
                ]
            else:
                grads = _ChunksAgain.apply(*ctx.saved_tensors, upstream, ctx.options, ctx.wanted)
                grads = [g if want else None for g, want in zip(grads, ctx.wanted, strict=True)]
        grads = [None if g is None else g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True)]
        return *grads, *nothing[3:]


class _ChunksAgain(torch.autograd.Function):
    """The gradients of row values, for LinearDivergence's backward pass; an empty tensor for each that nobody
    wants."""

    @staticmethod
    def vmap(info, in_dims, *arguments):
        return _in_turn(_ChunksAgain, info.batch_size, in_dims, arguments)

    @staticmethod
    def forward(
        hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, mask, upstream, options, wanted
    ):
        saved = (hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, mask)
        grads = _backward(saved, upstream, options, wanted)
        return tuple(upstream.new_empty(0) if g is None else g for g in grads)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)


def _in_turn(function: type, size: int, in_dims: tuple, arguments: tuple) -> tuple[tuple, tuple]:
    """torch.func.vmap of an autograd function: its samples one after the other, since each goes through its
    buffers in chunks and fills the machine by itself."""

    def of(i: int) -> list:
        sample = lambda x, d: x.select(d, i) if isinstance(x, Tensor) and d is not None else x  # noqa: E731
        return [sample(x, d) for x, d in zip(arguments, in_dims, strict=True)]

    outs = [torch.stack(each) for each in zip(*(function.apply(*of(i)) for i in range(size)), strict=True)]
    return tuple(outs), (0,) * len(outs)


def _heads(tensors: tuple, options: Options) -> tuple[Head, Head]:
    return Head.of(*tensors[:3], options), Head.of(*tensors[3:6], options)


def _each_chunk(rows: int, chunk: int):
    for first in range(0, rows, chunk):
        yield first, min(first + chunk, rows)


def _forward(tensors: tuple, mask: Tensor | None, options: Options, wanted: tuple[bool, bool, bool]):
    """Row values [N], which rows count [N] (1 or 0), and the gradients of the values' sum."""
    student, teacher = _heads(tensors, options)
    rows = student.hidden.size(0)
    value, counted = (student.hidden.new_empty(rows, dtype=options.compute) for _ in range(2))
    gradients = Gradients(student, options.compute, wanted)
    for first, last in _each_chunk(rows, options.chunk):
        s, t = student.logits(first, last), teacher.logits(first, last)
        weights = None if mask is None else mask[first:last]
        chunk = _values(options, s, t, weights)
        value[first:last] = chunk.value
        counted[first:last] = chunk.state[:, REGIME] != UNCOUNTED
        if any(wanted):
            gradients.add(_gradient(options, chunk, torch.ones_like(chunk.value), s, t, weights), first, last)
    return value, counted, gradients


def _backward(saved: tuple, upstream: Tensor, options: Options, wanted: tuple[bool, bool, bool]):
    *tensors, mask = saved
    student, teacher = _heads(tensors, options)
    gradients = Gradients(student, options.compute, wanted)
    for first, last in _each_chunk(student.hidden.size(0), options.chunk):
        s, t = student.logits(first, last), teacher.logits(first, last)
        weights = None if mask is None else mask[first:last]
        chunk = _values(options, s, t, weights)
        gradients.add(_gradient(options, chunk, upstream[first:last], s, t, weights), first, last)
    return gradients.hidden, gradients.weight, gradients.bias
