"""The shape of a launch: which dims are rows and classes, where they lie in memory, and how tiles cut them.

A tile is [rows, lanes, steps] of logits. Its orientation follows the student's strides:
  along   classes are adjacent: `steps` of them (a 16-byte load) belong to a thread, `lanes` threads to a row;
  across  rows are adjacent (images, dim=1): every thread owns rows and walks over their classes.
So an image with classes in dim 1 is read as it lies, without a transposed copy.
"""

import functools
import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

ONE_TILE = 8192  # a row of up to so many classes stays in registers
WARP = 64 if torch.version.hip else 32  # threads: 64 on AMD


@dataclass(frozen=True)
class Geometry:
    """Sizes and strides (elements) of the row and class dims that are left after merging."""

    rows: int
    classes: int
    row_sizes: tuple[int, ...]
    class_sizes: tuple[int, ...]
    row_strides: tuple[tuple[int, ...], ...]  # student's, teacher's, gradient's
    class_strides: tuple[tuple[int, ...], ...]

    def argument(self) -> tuple:
        """As kernels take it: see tiles.py."""
        return self.classes, self.row_sizes, self.class_sizes, self.row_strides, self.class_strides


def merge_dims(sizes: tuple[int, ...], strides: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], tuple]:
    """Joins neighbouring dims that step evenly in every tensor; always leaves at least one dim.

    `sizes` are n dims, outermost first; `strides` holds n strides for each tensor. Row-major order is kept.
    """
    merged: list[list[int]] = []  # [size, stride of each tensor ...]
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1:], steps, strict=True)):
            merged[-1] = [merged[-1][0] * size, *steps]
        else:
            merged.append([size, *steps])
    merged = merged or [[1] + [0] * len(strides)]
    columns = list(zip(*merged, strict=True))
    return columns[0], tuple(columns[1:])


def geometry(student: Tensor, teacher: Tensor, grad: Tensor, dim: list[int]) -> Geometry:
    """The launch shape of three tensors of one shape whose classes lie along `dim`."""
    return _geometry(tuple(student.shape), tuple(dim), student.stride(), teacher.stride(), grad.stride())


@functools.lru_cache(maxsize=1024)
def _geometry(shape: tuple[int, ...], dim: tuple[int, ...], *strides: tuple[int, ...]) -> Geometry:
    def part(dims: list[int]) -> tuple[int, tuple[int, ...], tuple]:
        sizes = tuple(shape[i] for i in dims)
        steps = tuple(tuple(stride[i] for i in dims) for stride in strides)
        return math.prod(sizes), *merge_dims(sizes, steps)

    rows, row_sizes, row_strides = part([i for i in range(len(shape)) if i not in dim])
    classes, class_sizes, class_strides = part([i for i in range(len(shape)) if i in dim])
    return Geometry(rows, classes, row_sizes, class_sizes, row_strides, class_strides)


@dataclass(frozen=True)
class Tile:
    """Constants of a compiled kernel: a `looped` one walks over rows tile by tile, others hold whole rows."""

    rows: int
    lanes: int
    steps: int
    looped: bool
    num_warps: int
    num_stages: int


def is_across(shape: Geometry) -> bool:
    """Whether rows lie closer together than classes in the student (the first tensor)."""
    row, column = shape.row_strides[0][-1], shape.class_strides[0][-1]
    return shape.rows > 1 and shape.classes > 1 and 0 < row < column


def prefetch() -> int:
    """Loop stages: NVIDIA loads tiles ahead into shared memory; AMD would into registers, and spill."""
    return 3 if WARP == 32 else 1


def choose_tile(shape: Geometry, item_bytes: int) -> Tile:
    """The tile of the forward kernel: a plain function of the shape, so that no call pays for tuning."""
    if is_across(shape):
        # A thread's rows make one load: of up to 16 bytes where there are rows enough, else of 4.
        each = min(4, 16 // item_bytes) if shape.rows >= 1 << 18 else max(1, 4 // item_bytes)
        return Tile(128 * each, 1, 1, looped=True, num_warps=128 // WARP, num_stages=prefetch())
    load = 16 // item_bytes  # classes in a 16-byte load
    width = triton.next_power_of_2(max(shape.classes, 1))
    if width <= ONE_TILE:
        steps = min(load, width)
        rows = min(max(1, 1024 // width), triton.next_power_of_2(max(shape.rows, 1)))
        threads = min(max(rows * width // 8, WARP), 512)
        return Tile(rows, width // steps, steps, looped=False, num_warps=threads // WARP, num_stages=1)
    # 1024 threads with 64 KB of loads on their way: one block to a multiprocessor, so that few rows share L2.
    return Tile(1, 1024, load, looped=True, num_warps=1024 // WARP, num_stages=prefetch())


def choose_gradient_tile(shape: Geometry, item_bytes: int) -> Tile:
    """The tile of the backward kernel, which needs no sum over a row: long rows are cut into blocks."""
    tile = choose_tile(shape, item_bytes)
    if is_across(shape) or not tile.looped:
        return tile
    return Tile(1, 512, 16 // item_bytes, looped=False, num_warps=512 // WARP, num_stages=1)
