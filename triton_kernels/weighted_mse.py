"""Squared errors under weights of positions and channels: a program a block of positions, walking the
channels.

e_bp = sum_c v d^2, g_bc = sum_p d^2, gradient -2 (u a v + w b) d with d = teacher - student; see
csrc/weighted_mse.h.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import NUMBER, compute_type, rounded
from .launch import launch
from .library import define
from .maps import map_arguments

POSITIONS, CHANNELS = 32, 64  # of a tile


@triton.jit
def weighted_mse_kernel(
    student,
    sb,
    sp,
    sc,
    teacher,
    tb,
    tp,
    tc,
    grad,
    gb,
    gp,
    gc,
    position,
    channel,
    gain,
    e,
    part,
    upstream,
    positions,
    channels,
    blocks,
    HAS_POSITION: tl.constexpr,
    HAS_CHANNEL: tl.constexpr,
    HAS_GAIN: tl.constexpr,
    HAS_ERRORS: tl.constexpr,
    HAS_GRAD: tl.constexpr,
    UNLESS_EQUAL: tl.constexpr,
    TYPE: tl.constexpr,
    PB: tl.constexpr,
    CB: tl.constexpr,
):
    """upstream: u and w, [2]."""
    u, w = tl.load(upstream), tl.load(upstream + 1)
    if (not UNLESS_EQUAL) | (u != w):
        block = tl.program_id(0).to(tl.int64)
        b = block // blocks
        p = (block % blocks) * PB + tl.arange(0, PB).to(tl.int64)
        a = tl.zeros((PB,), TYPE)
        if HAS_POSITION:
            a = tl.load(position + b * positions + p, mask=p < positions, other=0)
        error = tl.zeros((PB,), TYPE)
        for first in range(0, channels, CB):
            c = first + tl.arange(0, CB).to(tl.int64)
            here = (p < positions)[:, None] & (c < channels)[None, :]
            x = tl.load(student + b * sb + p[:, None] * sp + c[None, :] * sc, mask=here, other=0).to(TYPE)
            y = tl.load(teacher + b * tb + p[:, None] * tp + c[None, :] * tc, mask=here, other=0).to(TYPE)
            v, by_channel = tl.full((CB,), 1, TYPE), tl.zeros((CB,), TYPE)
            if HAS_GAIN:
                v = tl.load(gain + b * channels + c, mask=c < channels, other=0)
            if HAS_CHANNEL:
                by_channel = tl.load(channel + b * channels + c, mask=c < channels, other=0)
            d = y - x
            nowhere = (a[:, None] * v[None, :] + by_channel[None, :] == 0) & (d - d != 0)
            d = tl.where(nowhere, 0, d)
            square = d * d
            error += tl.sum(square * v[None, :], 1)
            if HAS_ERRORS and HAS_CHANNEL:
                tl.store(part + block * channels + c, tl.sum(square, 0), mask=c < channels)
            if HAS_GRAD:
                g = -2 * (u * a[:, None] * v[None, :] + w * by_channel[None, :]) * d
                at = grad + b * gb + p[:, None] * gp + c[None, :] * gc
                tl.store(at, rounded(g, grad.dtype.element_ty), mask=here)
        if HAS_ERRORS and HAS_POSITION:
            tl.store(e + b * positions + p, error, mask=p < positions)


def _run(student, teacher, position, channel, gain, *, grad, e, part, upstream, unless_equal=False) -> None:
    batch, positions, channels = student.shape
    compute = compute_type(student, teacher)
    blocks = triton.cdiv(positions, POSITIONS)
    or_any = lambda x: upstream if x is None else x  # noqa: E731 - a pointer that is not followed
    arguments = (
        *map_arguments(student),
        *map_arguments(teacher),
        *map_arguments(student if grad is None else grad),
        or_any(position),
        or_any(channel),
        or_any(gain),
        or_any(e),
        or_any(part),
        upstream,
        positions,
        channels,
        blocks,
    )
    launch(
        weighted_mse_kernel,
        batch * blocks if channels else 0,
        arguments,
        HAS_POSITION=position is not None,
        HAS_CHANNEL=channel is not None,
        HAS_GAIN=gain is not None,
        HAS_ERRORS=part is not None,
        HAS_GRAD=grad is not None,
        UNLESS_EQUAL=unless_equal,
        TYPE=NUMBER[compute],
        PB=POSITIONS,
        CB=CHANNELS,
        num_warps=4,
    )


def _dot(weight: Tensor, error: Tensor) -> Tensor:
    return torch.where(weight == 0, 0, weight.double() * error).sum().to(weight.dtype)


def weighted_mse(
    student: Tensor,
    teacher: Tensor,
    position: Tensor | None,
    channel: Tensor | None,
    gain: Tensor | None,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The two values, the errors e and g, and the gradient for upstream gradients of 1."""
    batch, positions, channels = student.shape
    new = {"dtype": compute_type(student, teacher)}
    blocks = triton.cdiv(positions, POSITIONS)
    grad = torch.empty_like(student) if with_grad else None
    e = student.new_zeros((batch, positions) if position is not None else 0, **new)
    part = student.new_zeros((batch, blocks, channels) if channel is not None else 0, **new)
    ones = student.new_ones(2, **new)
    _run(student, teacher, position, channel, gain, grad=grad, e=e, part=part, upstream=ones)
    g = student.new_zeros(0, **new) if channel is None else part.sum(1)
    zero = student.new_zeros((), **new)
    return (
        zero if position is None else _dot(position, e),
        zero.clone() if channel is None else _dot(channel, g),
        e,
        g,
        student.new_empty(0, **new) if grad is None else grad,
    )


def weighted_mse_redo_(grad, grad_position, grad_channel, student, teacher, position, channel, gain) -> None:
    """Makes grad again under these upstream gradients, unless they are equal."""
    upstream = torch.stack((grad_position, grad_channel))
    _run(
        student,
        teacher,
        position,
        channel,
        gain,
        grad=grad,
        e=None,
        part=None,
        upstream=upstream,
        unless_equal=True,
    )


def weighted_mse_backward(grad_position, grad_channel, student, teacher, position, channel, gain) -> Tensor:
    """The gradient under these upstream gradients."""
    grad = torch.empty_like(student)
    upstream = torch.stack((grad_position, grad_channel))
    _run(student, teacher, position, channel, gain, grad=grad, e=None, part=None, upstream=upstream)
    return grad


def _fake(student, teacher, position, channel, gain, with_grad):
    new = {"dtype": compute_type(student, teacher)}
    batch, positions, channels = student.shape
    e = student.new_empty((batch, positions) if position is not None else 0, **new)
    g = student.new_empty((batch, channels) if channel is not None else 0, **new)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0, **new)
    return student.new_empty((), **new), student.new_empty((), **new), e, g, grad


_UPSTREAM = "Tensor grad_position, Tensor grad_channel, "
_INPUTS = "Tensor student, Tensor teacher, Tensor? position, Tensor? channel, Tensor? gain"
define(
    f"weighted_mse({_INPUTS}, bool with_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    weighted_mse,
    _fake,
)
define(
    f"weighted_mse_backward({_UPSTREAM}{_INPUTS}) -> Tensor",
    weighted_mse_backward,
    lambda u, w, student, *_: torch.empty_like(student),
)
define(
    f"weighted_mse_redo_(Tensor(a!) grad, {_UPSTREAM}{_INPUTS}) -> ()", weighted_mse_redo_, lambda *_: None
)
