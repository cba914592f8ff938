"""Reading and writing tiles [rows, lanes, steps] of logits, at any strides.

A view of the logits is a tuple (n_classes, class sizes, student at its rows, student's class strides, teacher at its
rows, teacher's class strides); "at its rows" are pointers [rows, 1, 1]. Offsets are int64 throughout.
"""

import triton
import triton.language as tl

from .common import element_offset


@triton.jit
def row_weights(mask, row, n_rows, TYPE: tl.constexpr):
    """The rows' weights, and which of them are read: those that exist and that the mask does not drop."""
    if mask is None:
        weight = tl.full(row.shape, 1.0, TYPE)
    else:
        weight = tl.load(mask + row, mask=row < n_rows, other=0.0)
    return weight, (row < n_rows) & (weight != 0)


@triton.jit
def at_rows(pointer, row, row_sizes, row_strides):
    """Pointers [rows, 1, 1] to the rows' first elements."""
    return pointer + element_offset(row, row_sizes, row_strides)[:, None, None]


@triton.jit
def tile_classes(tile, LANES: tl.constexpr, STEPS: tl.constexpr):
    """A tile's class numbers, int64 [lanes, steps]; steps are adjacent."""
    lane = tl.cast(tile, tl.int64) * LANES + tl.arange(0, LANES)
    return lane[:, None] * STEPS + tl.arange(0, STEPS)[None, :]


@triton.jit
def logits(student, teacher, row, n_classes, row_sizes, class_sizes, row_strides, class_strides):
    """The view of the logits of `row`; see above."""
    s_rows = at_rows(student, row, row_sizes, row_strides[0])
    t_rows = at_rows(teacher, row, row_sizes, row_strides[1])
    return n_classes, class_sizes, s_rows, class_strides[0], t_rows, class_strides[1]


@triton.jit
def inside_tile(view, wanted, classes, FULL: tl.constexpr):
    """Which elements of a tile exist, for rows `wanted`; None if all do. A FULL tile of a single row is wanted."""
    if FULL:
        if wanted.shape[0] == 1:
            return None
        else:
            return wanted[:, None, None] & (classes >= 0)[None, :, :]
    else:
        return wanted[:, None, None] & (classes < view[0])[None, :, :]


@triton.jit
def load_tile(view, read, tile, FULL: tl.constexpr, TYPE: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr):
    """Student and teacher logits of tile number `tile`; what is not to be read is an impossible class."""
    _, sizes, student, student_strides, teacher, teacher_strides = view
    classes = tile_classes(tile, LANES, STEPS)
    s_at = student + element_offset(classes, sizes, student_strides)[None, :, :]
    t_at = teacher + element_offset(classes, sizes, teacher_strides)[None, :, :]
    inside = inside_tile(view, read, classes, FULL)
    if inside is None:
        return tl.load(s_at).to(TYPE), tl.load(t_at).to(TYPE)
    else:
        s = tl.load(s_at, mask=inside, other=-float("inf"))
        t = tl.load(t_at, mask=inside, other=-float("inf"))
        return s.to(TYPE), t.to(TYPE)


@triton.jit
def store_tile(view, grad, tile, value, FULL: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr):
    """Stores a tile of the gradient, rounded once. grad: pointers [rows, 1, 1], class strides, which rows exist."""
    at, strides, exists = grad
    classes = tile_classes(tile, LANES, STEPS)
    at = at + element_offset(classes, view[1], strides)[None, :, :]
    inside = inside_tile(view, exists, classes, FULL)
    tl.store(at, value.to(at.dtype.element_ty), mask=inside, eviction_policy="evict_first")


@triton.jit
def first_gap(view, read, TYPE: tl.constexpr):
    """t - s of class 0 of the rows `read`, or 0 where that is not a finite number; [rows]."""
    read = (read & (view[0] > 0))[:, None, None]
    s = tl.load(view[2], mask=read, other=0.0).to(TYPE)
    t = tl.load(view[4], mask=read, other=0.0).to(TYPE)
    gap = tl.sum(tl.sum(t - s, 2), 1)  # over dims of size 1
    return tl.where(tl.abs(gap) < float("inf"), gap, 0.0)
