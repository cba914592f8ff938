"""Tiles of an attention map: what the kernels of attention_masks share.

An operand is (pointer of its image, position stride, channel stride). Products take tiles in the inputs'
common half type, or float32 or float64; sums are of the compute type TYPE.
"""

import triton
import triton.language as tl


@triton.jit
def load_tile(x, positions, channels, width, mask, ACROSS: tl.constexpr, TYPE: tl.constexpr):
    """[positions, channels] of an operand, or its transpose if ACROSS; 0 where `mask` is not set, and past
    the last of `width` channels.
    """
    if ACROSS:
        at = x[0] + positions[None, :] * x[1] + channels[:, None] * x[2]
        inside = mask[None, :] & (channels < width)[:, None]
    else:
        at = x[0] + positions[:, None] * x[1] + channels[None, :] * x[2]
        inside = mask[:, None] & (channels < width)[None, :]
    return tl.load(at, mask=inside, other=0).to(TYPE)


@triton.jit
def valid(mask, positions, count, HAS_MASK: tl.constexpr):
    """Which positions exist and are not masked; mask: the image's row of it."""
    there = positions < count
    if HAS_MASK:
        there = there & (tl.load(mask + positions, mask=there, other=0) != 0)
    return there


@triton.jit
def product(
    rows,
    row_positions,
    row_mask,
    columns,
    column_positions,
    column_mask,
    width,
    TYPE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    CB: tl.constexpr,
    ONCE: tl.constexpr,
):
    """[rows, columns]: sums over the channels, CB at a time; ONCE: they are no more than CB."""
    if ONCE:
        c = tl.arange(0, CB).to(tl.int64)
        x = load_tile(rows, row_positions, c, width, row_mask, False, OPERAND)
        y = load_tile(columns, column_positions, c, width, column_mask, True, OPERAND)
        return tl.dot(x, y, input_precision=PRECISION, out_dtype=TYPE)
    else:
        sum = tl.zeros((row_positions.shape[0], column_positions.shape[0]), TYPE)
        for first in range(0, width, CB):
            c = first + tl.arange(0, CB).to(tl.int64)
            x = load_tile(rows, row_positions, c, width, row_mask, False, OPERAND)
            y = load_tile(columns, column_positions, c, width, column_mask, True, OPERAND)
            sum += tl.dot(x, y, input_precision=PRECISION, out_dtype=TYPE)
        return sum


@triton.jit
def attention(s, scale, lse, key_there):
    """A from the products of queries and keys and the rows' log-sum-exps; 0 where no key is."""
    return tl.where(key_there[None, :], tl.exp(s * scale - lse[:, None]), 0)
