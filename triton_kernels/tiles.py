"""Reading and writing tiles [rows, lanes, steps] of logits, at any strides.

Where logits are comes as a launch argument, `geometry`, a tuple of
  n_classes, sizes of the row dims, sizes of the class dims,
  strides of the row dims and strides of the class dims: a tuple for student, teacher and gradient each.
A program makes of it its view of the logits, a tuple of
  n_classes, sizes of the class dims, class numbers [lanes, steps] of tile 0,
  pointers [rows, 1, 1] to the student's rows, strides of its class dims, and the same of the teacher.
Offsets and class numbers are int64 throughout.
"""

import triton
import triton.language as tl

from .common import element_offset, rounded


@triton.jit
def row_weights(mask, row, n_rows, TYPE: tl.constexpr):
    """The rows' weights, and which rows are read: those that exist and that the mask does not drop."""
    if mask is None:
        weight = tl.full(row.shape, 1.0, TYPE)
    else:
        weight = tl.load(mask + row, mask=row < n_rows, other=0.0)
    return weight, (row < n_rows) & (weight != 0)


@triton.jit
def at_rows(pointer, row, sizes, strides):
    """Pointers [rows, 1, 1] to the rows' first elements."""
    return pointer + element_offset(row, sizes, strides)[:, None, None]


@triton.jit
def view_logits(student, teacher, row, geometry, LANES: tl.constexpr, STEPS: tl.constexpr):
    """The view of rows `row`; steps are adjacent classes."""
    classes = tl.arange(0, LANES).to(tl.int64)[:, None] * STEPS + tl.arange(0, STEPS)[None, :]
    n_classes, row_sizes, class_sizes, row_strides, class_strides = geometry
    s_rows = at_rows(student, row, row_sizes, row_strides[0])
    t_rows = at_rows(teacher, row, row_sizes, row_strides[1])
    return n_classes, class_sizes, classes, s_rows, class_strides[0], t_rows, class_strides[1]


@triton.jit
def grad_rows(grad, row, geometry, exists):
    """The gradient as store_tile takes it."""
    return at_rows(grad, row, geometry[1], geometry[3][2]), geometry[4][2], exists


@triton.jit
def tile_width(view):
    """Classes in a tile."""
    return view[2].shape[0] * view[2].shape[1]


@triton.jit
def inside_tile(view, wanted, classes, FULL: tl.constexpr):
    """Which elements of a tile exist, for rows `wanted`; all of them in a full tile of a single row."""
    if not FULL:
        return wanted[:, None, None] & (classes < view[0])[None, :, :]
    elif wanted.shape[0] > 1:
        return wanted[:, None, None]
    else:
        return tl.full((1, 1, 1), True, tl.int1)  # the compiler drops a mask that it knows to be true


@triton.jit
def load_tile(view, wanted, tile, TYPE: tl.constexpr, FULL: tl.constexpr):
    """Student and teacher logits of tile number `tile`; what is not wanted is an impossible class.

    FULL: no class of the tile is past the last; a single row is then read whether it is wanted or not.
    """
    classes = view[2] + tl.cast(tile, tl.int64) * tile_width(view)
    inside = inside_tile(view, wanted, classes, FULL)
    s_at = view[3] + element_offset(classes, view[1], view[4])[None, :, :]
    t_at = view[5] + element_offset(classes, view[1], view[6])[None, :, :]
    s = tl.load(s_at, mask=inside, other=-float("inf"))
    t = tl.load(t_at, mask=inside, other=-float("inf"))
    return s.to(TYPE), t.to(TYPE)


@triton.jit
def store_tile(view, grad, tile, value, FULL: tl.constexpr):
    """Stores a tile of the gradient, rounded once; grad = pointers [rows, 1, 1], class strides, live rows."""
    classes = view[2] + tl.cast(tile, tl.int64) * tile_width(view)
    at = grad[0] + element_offset(classes, view[1], grad[1])[None, :, :]
    inside = inside_tile(view, grad[2], classes, FULL)
    tl.store(at, rounded(value, at.dtype.element_ty), mask=inside, eviction_policy="evict_first")


@triton.jit
def first_gap(view, wanted, TYPE: tl.constexpr):
    """t - s of class 0 of the rows `wanted`, or 0 where that is not a finite number; [rows]."""
    wanted = (wanted & (view[0] > 0))[:, None, None]
    s = tl.load(view[3], mask=wanted, other=0.0).to(TYPE)
    t = tl.load(view[5], mask=wanted, other=0.0).to(TYPE)
    gap = tl.sum(tl.sum(t - s, 2), 1)  # over dims of size 1
    return tl.where(tl.abs(gap) < float("inf"), gap, 0.0)
