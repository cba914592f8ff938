"""The emulated device of tests/native: sound kernels run in any order of threads, planted bugs are caught."""

import contextlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from native import kernels
from native.arrays import far_apart

ORDERS = pytest.mark.parametrize(("order", "seed"), kernels.ORDERS)


def run(native, name, x, y, rows=1, cols=0, stride=0):
    native.run_sample(name, x, y, rows=rows, cols=cols, stride=stride)
    return y


@ORDERS
@pytest.mark.parametrize("kernel", ["row_sum", "row_sum_tree"])
@pytest.mark.parametrize("cols", [1, 7, 31, 32, 33, 255, 256, 257, 1000])
def test_row_sum(native, kernel, cols, order, seed):
    native.set_device(order=order, seed=seed)
    x = np.random.default_rng(cols).standard_normal((5, cols)).astype(np.float32)
    y = run(native, kernel, x, np.full(5, np.nan, np.float32), 5, cols, cols)
    np.testing.assert_allclose(y, x.astype(np.float64).sum(1), rtol=0, atol=1e-4)


@ORDERS
def test_syncwarp_orders_shared_memory(native, order, seed):
    native.set_device(order=order, seed=seed)
    x = np.arange(96, dtype=np.float32)
    y = run(native, "rotate_in_warp", x, np.full(96, np.nan, np.float32))
    np.testing.assert_array_equal(y.reshape(3, 32), np.roll(x.reshape(3, 32), -1, axis=1))


@ORDERS
def test_integer_atomics(native, order, seed):
    native.set_device(order=order, seed=seed)
    x = np.random.default_rng(0).integers(0, 1000, 777).astype(np.float32)
    y = run(native, "histogram", x, np.zeros(64, np.float32), cols=777)
    np.testing.assert_array_equal(y.view(np.int32), np.bincount(x.astype(int) % 64, minlength=64))


def expected_collectives(x):
    """Rows of the kernel `collectives`, for x [warps, 32]."""
    lane, n = np.arange(32), x.astype(np.int64)
    whole = np.ones_like(x)
    odd = n % 2 != 0
    below = np.where(lane < 16, np.minimum(lane + 1, 15), lane ^ 1)
    return [
        x[:, [5]] * whole,
        x[:, lane // 8 * 8 + (lane + 3) % 8],
        x[:, np.where(lane < 2, lane, lane - 2)],
        x[:, np.where(lane % 16 + 3 > 15, lane, np.minimum(lane + 3, 31))],
        x[:, lane ^ 9],
        x[:, lane ^ 16],
        (odd << lane).sum(1, keepdims=True) // 256 * whole,
        odd.all(1, keepdims=True) * whole,
        odd.any(1, keepdims=True) * whole,
        n.sum(1, keepdims=True) * whole,
        -n.max(1, keepdims=True) * whole,
        n.max(1, keepdims=True) * whole,
        np.bitwise_xor.reduce(n, 1, keepdims=True) * whole,
        odd.sum() * whole,
        (n > 1000).any() * whole,
        x[:, below],
    ]


@ORDERS
def test_collectives(native, order, seed):
    native.set_device(order=order, seed=seed)
    x = np.random.default_rng(1).integers(0, 1 << 12, 96).astype(np.float32)
    y = run(native, "collectives", x, np.full((16, 96), np.nan, np.float32))
    expected = np.array(expected_collectives(x.reshape(3, 32)), np.float32).reshape(16, 96)
    np.testing.assert_array_equal(y, expected)


# ---- Planted bugs: (sample, cols, what the message must say) -----------------------------------------------

THREADS = [
    ("wrong_mask", 32, r"mask 0x0000ffff\)(, but the mask leaves out its own lane| and reads lane \d+)"),
    ("absent_lanes", 24, r"reads lane \d+, which takes no part"),
    ("barrier_in_branch", 32, r"threads 32-63 has returned; each of threads 0-31 waits at __syncthreads"),
    ("two_barriers", 32, r"meet in different barriers"),
]
ACCESSES = [  # found where every access is reported: not in the sanitized build
    (
        "missing_barrier",
        1000,
        r"race on 'part'.*\(missing_barrier\.cu:\d+\), thread \d+ of the block (read|wrote)",
    ),
    ("shared_race", 1000, r"race on 'part'.*thread \d+ of the block (read|wrote) it"),
    ("race_of_blocks", 1000, r"race on 'y', byte 0.*of another block"),
    ("long_tail", 1000, r"reads 4 bytes \(long_tail\.cu:\d+\) at byte 32000 of 'x', which has 32000"),
    ("past_shared", 32, r"index outside its array|at byte 128 of 'part', which has 128"),
    ("written_input", 32, r"writes 4 bytes .* in 'x', which is read-only"),
    ("misaligned_load", 4, r"not aligned for its type"),
]
SANITIZED = os.environ.get("KDFAST_NATIVE_MODE") == "sanitize"
CAUGHT = THREADS if SANITIZED else THREADS + ACCESSES


@ORDERS
@pytest.mark.parametrize(("kernel", "cols", "message"), CAUGHT, ids=[c[0] for c in CAUGHT])
def test_planted_bug_is_named(native, kernel, cols, message, order, seed):
    native.set_device(order=order, seed=seed)
    x = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)
    with pytest.raises(native.DeviceError, match=message):
        run(native, kernel, x, np.full(64, np.nan, np.float32), 8, cols, 1000)


@pytest.mark.parametrize(
    ("kernel", "cols"), [("short_tail", 999), ("unwritten_output", 60), ("unset_shared", 64)]
)
def test_planted_bug_shows_in_numbers(native, kernel, cols):
    """These read and write where they may: only the results can tell, and poison makes sure they do."""
    x = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)
    y = run(native, kernel, x, np.full(64, np.nan, np.float32), 8, cols, 1000)
    if kernel == "short_tail":
        assert abs(y[:8] - x[:, :cols].sum(1)).max() > 1e-2
    else:
        assert np.isnan(y[:cols]).any()


def test_offset_in_32_bits(native):
    stride = (1 << 31) + 8
    x = far_apart((3, 8), (stride, 1), "float32")
    x[:] = np.arange(24).reshape(3, 8)
    flat = np.lib.stride_tricks.as_strided(x, (2 * stride + 8,), (4,), writeable=False)
    right = run(native, "row_sum", flat, np.full(3, np.nan, np.float32), 3, 8, stride)
    np.testing.assert_array_equal(right, x.sum(1))
    if SANITIZED:
        return  # the planted bug below would end the process there
    y = np.full(3, np.nan, np.float32)
    with contextlib.suppress(native.DeviceError):
        run(native, "int32_offset", flat, y, 3, 8, stride)
    assert not np.array_equal(y, x.sum(1))


# What ends a process that runs a planted bug: a DeviceError, or what the sanitizers say.
FATAL = [
    ("long_tail", 1000, "heap-buffer-overflow"),
    ("past_shared", 32, "index 32 out of bounds|use-after-poison"),
    ("misaligned_load", 4, "misaligned address"),
]
CHILD = """
import numpy as np
from native import build
x, y = np.zeros((8, 1000), np.float32), np.zeros(64, np.float32)
build.load().run_sample("{kernel}", x, y, rows=8, cols={cols}, stride=1000)
"""


@pytest.mark.parametrize(("kernel", "cols", "report"), FATAL, ids=[f[0] for f in FATAL])
def test_planted_bug_ends_a_process(native, kernel, cols, report):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    command = [sys.executable, "-c", CHILD.format(kernel=kernel, cols=cols)]
    child = subprocess.run(command, text=True, capture_output=True, env=environment)
    assert child.returncode != 0
    assert re.search(report if SANITIZED else "DeviceError", child.stderr), child.stderr
