"""scale_grad_(grad, factor): grad *= factor in place, where a factor of exactly 1 costs no pass over memory.

Reads one number; reads and writes grad once if that number is not 1.
"""

import triton
import triton.language as tl
from torch import Tensor

from .common import element_offset, rounded
from .launch import launch
from .library import define
from .rows import merge_dims

BLOCK = 4096


@triton.jit
def scale_kernel(grad, factor, n, sizes, strides, BLOCK: tl.constexpr):
    """BLOCK elements a program; computes in the factor's type, rounds once."""
    by = tl.load(factor)
    if by != 1:
        index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        at = grad + element_offset(index, sizes, strides)
        x = tl.load(at, mask=index < n)
        tl.store(at, rounded(x.to(by.dtype) * by, x.dtype), mask=index < n)


def scale_grad_(grad: Tensor, factor: Tensor) -> None:
    """grad: any dtype and strides, no two elements in one place; factor: 0-d float32 or float64."""
    order = sorted(range(grad.dim()), key=grad.stride, reverse=True)
    sizes, (strides,) = merge_dims(tuple(map(grad.size, order)), (tuple(map(grad.stride, order)),))
    launch(
        scale_kernel,
        triton.cdiv(grad.numel(), BLOCK),
        device=grad.device,
        grad=grad,
        factor=factor,
        n=grad.numel(),
        sizes=sizes,
        strides=strides,
        BLOCK=BLOCK,
        num_warps=8,
    )


def scale_grad_fake(grad: Tensor, factor: Tensor) -> None:
    """Writes nothing."""


define("scale_grad_(Tensor(a!) grad, Tensor factor) -> ()", scale_grad_, scale_grad_fake)
