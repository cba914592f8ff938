"""numpy arrays as kernels see them: bfloat16 as uint16, layouts with NaN in every hole, 2^31 elements."""

from __future__ import annotations

import mmap

import numpy as np

STORED = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # relative
SMALLEST = {"float64": 5e-324, "float32": 1.5e-45, "float16": 6e-8, "bfloat16": 9.2e-41}  # denormal numbers


def store(x: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds to a dtype; bfloat16 becomes its bits."""
    if dtype != "bfloat16":
        return x.astype(STORED[dtype])
    word = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded).astype(np.uint16)


def numbers(x: np.ndarray) -> np.ndarray:
    """The float64 values of stored numbers."""
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaN
        return x.astype(np.float64)


def filled(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array full of NaN."""
    return store(np.full(shape, np.nan, np.float32), dtype)


def _padded(rows, cols, dtype):  # rows start anywhere
    base = filled((rows, cols + 5), dtype)
    return base, base[:, 2 : 2 + cols]


def _aligned(rows, cols, dtype):
    base = filled((rows, cols), dtype)
    return base, base


def _spread(rows, cols, dtype):  # every other column
    base = filled((rows, 2 * cols + 1), dtype)
    return base, base[:, 1 : 2 * cols + 1 : 2]


def _columns(rows, cols, dtype):  # neighbouring rows side by side
    base = filled((cols + 1, rows + 3), dtype)
    return base, base[:cols, 1 : rows + 1].T


def _images(rows, cols, dtype):  # [2, classes, rows] with the classes in the middle
    base = filled((2, cols, rows), dtype)
    return base, np.moveaxis(base, 1, -1)


# (base, view [row dims ..., classes]); what lies between the view's elements is NaN.
LAYOUTS = {"aligned": _aligned, "padded": _padded, "spread": _spread, "columns": _columns, "images": _images}


def place(layout: str, rows: int, cols: int, dtype: str, values: np.ndarray | None = None):
    """A fresh array in a layout, with values [all rows, cols] written into the view if given."""
    base, view = LAYOUTS[layout](rows, cols, dtype)
    if values is not None:
        view[...] = store(values, dtype).reshape(view.shape)
    return base, view


def holes_are_untouched(base: np.ndarray, view: np.ndarray) -> bool:
    """Whether every element of base outside view is still NaN; the view is overwritten."""
    view[...] = store(np.array(np.nan), "bfloat16") if view.dtype == np.uint16 else np.nan
    return bool(np.isnan(numbers(base)).all())


def far_apart(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> np.ndarray:
    """An array whose strides (in elements) may span many gigabytes; untouched pages cost no memory."""
    item = np.dtype(STORED[dtype]).itemsize
    count = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    no_reserve = 0x4000  # of linux/mman.h: pages are not counted before they are touched
    flat = np.frombuffer(
        mmap.mmap(-1, count * item, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve), STORED[dtype]
    )
    return np.lib.stride_tricks.as_strided(flat, shape, [s * item for s in strides], writeable=True)
