"""The Triton kernels of the divergences: tiles, their tails and loops, strides, reductions.

Runs in Triton's interpreter (TRITON_INTERPRET=1) on the CPU, or on a GPU. Truth is the oracle in extended
precision.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math

import numpy as np
import pytest
import torch
from check import interpreted
from native import oracle
from torch import Tensor

if importlib.util.find_spec("triton"):
    from kdfast.triton_kernels import divergence, rows

INF, NAN = float("inf"), float("nan")

# By what their gradient needs of a row: nothing, a mean, a sum. The last two differ from js_div in the
# formula alone, and the interpreter's quick run leaves them out.
NAMES = ("kl_div", "reverse_kl_div", "js_div", "skew_kl_div", "tv_dist")[: 3 if interpreted() else None]
ROWS = ("kl_div", "js_div") if interpreted() else NAMES[:3]
NONE, MEAN, SUM, BATCHMEAN = range(4)


@pytest.fixture
def poison(triton_device, monkeypatch):
    """Every output is filled with NaN before a kernel writes it."""
    plain, empty_like = divergence.forward_fake, torch.empty_like

    def poisoned(*arguments):
        return tuple(x.fill_(NAN) for x in plain(*arguments))

    monkeypatch.setattr(divergence, "forward_fake", poisoned)
    monkeypatch.setattr(torch, "empty_like", lambda x, **k: empty_like(x, **k).fill_(NAN))


def force_tile(monkeypatch, *tile) -> None:
    """Every launch takes this tile: rows, lanes, steps, looped; gradients are made block by block."""
    made = rows.Tile(*tile, num_warps=4, num_stages=2)
    monkeypatch.setattr(rows, "choose_tile", lambda *_: made)
    monkeypatch.setattr(rows, "choose_gradient_tile", lambda *_: dataclasses.replace(made, looped=False))


def awkward_logits(rows: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Float64 rows: far, near, near but shifted, equal; with impossible classes on both sides, and on one."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    for i, (distance, shift) in enumerate(((None, 0), (1e-2, 0), (1e-4, 3.0), (0.0, 0.0))):
        if distance is not None:
            student[i::6] = teacher[i::6] + distance * student[i::6] + shift
    student[4::6, ::3] = teacher[4::6, ::3] = -INF
    student[5::6, 1::4] = -INF
    return student, teacher


def call(name: str, student: Tensor, teacher: Tensor, mask=None, dim=(1,), reduction=SUM, with_grad=True):
    op, param = getattr(torch.ops.kdfast_triton, name), oracle.PARAMETER.get(name, 0.0)
    return op(student, teacher, mask, list(dim), 1.7, 1.7**2, param, reduction, with_grad)


def call_backward(name: str, upstream: Tensor, norm, student, teacher, mask, state, dim=(1,)) -> Tensor:
    op, param = getattr(torch.ops.kdfast_triton, name + "_backward"), oracle.PARAMETER.get(name, 0.0)
    return op(upstream, norm, student, teacher, mask, state, list(dim), 1.7, 1.7**2, param)


def truth(name: str, student: Tensor, teacher: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row values and gradients of [rows, classes], with T^2."""
    s, t = (x.double().cpu().numpy() for x in (student, teacher))
    value, gradient, _ = oracle.divergence(name, s, t, 1.7, oracle.PARAMETER.get(name, 0.0))
    return value * 1.7**2, gradient * 1.7**2


def assert_near(ours: Tensor, wanted: np.ndarray, tolerance: float) -> None:
    """Relative to each row; +inf only where it is wanted."""
    ours, wanted = ours.double().cpu().numpy(), np.asarray(wanted, dtype=np.float64)
    assert np.array_equal(np.isinf(ours), np.isinf(wanted))
    ours, wanted = np.where(np.isinf(wanted), 0, ours), np.where(np.isinf(wanted), 0, wanted)
    size = np.abs(wanted).reshape(len(wanted), -1).max(-1, initial=0)
    error = np.abs(ours - wanted).reshape(len(wanted), -1).max(-1, initial=0)
    assert (error <= tolerance * size + 1e-18).all(), (error / np.where(size == 0, 1, size)).max()


TILES = {
    "whole rows": (2, 8, 4, False),
    "one row, many tiles": (1, 2, 2, True),
    "rows side by side": (4, 1, 1, True),
}


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("name", NAMES)
def test_every_tile_takes_every_row(poison, triton_device, monkeypatch, name, tile):
    force_tile(monkeypatch, *tile)
    # The last tile with one class, and full.
    for classes, dtype, tolerance in ((5, torch.float64, 1e-10), (4, torch.float32, 4e-5)):
        s, t = (x.to(dtype).to(triton_device) for x in awkward_logits(7, classes))
        values, gradients = truth(name, s, t)
        value, _, state, norm = call(name, s, t, reduction=NONE, with_grad=False)
        assert norm == 1
        assert_near(value, values, tolerance)
        ones = torch.ones(7, dtype=dtype, device=triton_device)
        assert_near(call_backward(name, ones, norm, s, t, None, state), gradients, tolerance)
        total, grad, state, norm = call(name, s, t)
        assert norm == 1 and state.shape == (0, 8)
        assert_near(grad, gradients, tolerance)
        assert_near(total.reshape(1), values.sum(keepdims=True), tolerance)


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("name", ROWS)
def test_rows_that_do_not_count(poison, triton_device, monkeypatch, name, tile):
    """Dropped and impossible rows: value and gradient 0, whatever else is in them; norm mends the mean."""
    force_tile(monkeypatch, *tile)
    student, teacher = (x.to(triton_device) for x in awkward_logits(7, 5, seed=1))
    mask = torch.tensor([1, 0, 1, 1, 1, 2, 1], dtype=torch.float64, device=triton_device)
    mask[5] = 2 if name == "js_div" else 0  # that row's KL is +inf
    student[1, 4] = NAN
    student[2] = -INF
    teacher[2, 3], teacher[3], student[3, 4] = NAN, -INF, INF
    counted = mask.cpu().numpy() * np.array([1, 0, 0, 0, 1, 1, 1])
    values, gradients = truth(name, student, teacher)
    values, gradients = (np.where(counted > 0, x.T, 0).T for x in (values, gradients))
    value, grad, _, norm = call(name, student, teacher, mask, reduction=MEAN)
    assert_near(value.reshape(1), (values * counted).sum(keepdims=True) / counted.sum(), 1e-10)
    assert_near(grad * norm, (gradients.T * counted / counted.sum()).T, 1e-10)
    assert (grad[counted == 0] == 0).all()
    rows, _, state, _ = call(name, student, teacher, mask, reduction=NONE, with_grad=False)
    assert_near(rows, values * counted, 1e-10)
    value, _, state, norm = call(name, student, teacher, mask, reduction=MEAN, with_grad=False)
    grad = call_backward(name, torch.ones_like(norm), norm, student, teacher, mask, state)
    assert_near(grad, (gradients.T * counted / counted.sum()).T, 1e-10)
    for dropped in (torch.zeros_like(mask), None):
        if dropped is None:
            student = torch.full_like(student, -INF)
        value, grad, _, norm = call(name, student, teacher, dropped, reduction=MEAN)
        assert value == 0 and (grad == 0).all() and norm.isfinite()


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_not_a_number_is_seen(poison, triton_device, monkeypatch, tile):
    force_tile(monkeypatch, *tile)
    for name, (bad, side) in itertools.product(ROWS, ((NAN, 0), (INF, 1))):
        pair = [x.to(triton_device) for x in awkward_logits(3, 5)]
        pair[side][1, 4] = bad
        value, grad, _, _ = call(name, *pair, reduction=SUM)
        rows = call(name, *pair, reduction=NONE, with_grad=False)[0]
        assert value.isnan() and rows.isnan().tolist() == [False, True, False]
        assert grad[1].isnan().any() and not grad[::2].isnan().any()


def strided(x: Tensor, kind: str) -> Tensor:
    """The same numbers at other strides; what lies between them is NaN."""
    if kind == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if kind == "sliced":
        wide = torch.full([2 * n for n in x.shape], NAN, dtype=x.dtype, device=x.device)
        wide[::2, ::2, ::2, ::2] = x
        return wide[::2, ::2, ::2, ::2]
    if kind == "reversed dims":
        return x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    return x


STRIDES = ("plain", "channels last", "sliced", "reversed dims")


@pytest.mark.parametrize(
    "kinds", list(zip(STRIDES, ("plain", "sliced", "reversed dims", "channels last"), strict=True))
)
def test_strides_and_dims(poison, triton_device, kinds):
    generator = torch.Generator().manual_seed(0)
    plain = [torch.randn(3, 6, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    plain = [x.to(triton_device) for x in plain]
    student, teacher = (strided(x, kind) for x, kind in zip(plain, kinds, strict=True))
    for dim in ((1,), (3,), (1, 3), (0, 1, 2, 3)):
        rest = [d for d in range(4) if d not in dim]
        classes = math.prod(student.shape[d] for d in dim)
        flat = [x.permute(*rest, *dim).reshape(-1, classes) for x in plain]
        values, gradients = truth("kl_div", *flat)
        value, grad, _, _ = call("kl_div", student, teacher, dim=dim)
        assert grad.stride() == torch.empty_like(student).stride()
        assert_near(value.reshape(1), values.sum(keepdims=True), 1e-11)
        ours = grad.permute(*rest, *dim).reshape(flat[0].shape)
        assert_near(ours, gradients, 1e-11)
        rows = call("kl_div", student, teacher, dim=dim, reduction=NONE, with_grad=False)[0]
        assert rows.shape == tuple(student.shape[d] for d in rest)
        assert_near(rows.reshape(-1), values, 1e-11)


def test_no_rows_and_no_dims(poison, triton_device):
    for shape, dim in (((0, 5), (1,)), ((3, 0, 5), (2,)), ((5,), (0,)), ((3, 1), (1,))):
        x, y = torch.randn(shape, device=triton_device), torch.randn(shape, device=triton_device)
        for reduction in (MEAN, SUM, BATCHMEAN):
            value, grad, _, norm = call("js_div", x, y, dim=dim, reduction=reduction)
            assert value.isfinite() and norm == 1 and grad.shape == x.shape and not grad.isnan().any()
        state, norm = call("js_div", x, y, dim=dim, reduction=BATCHMEAN, with_grad=False)[2:]
        assert call_backward("js_div", torch.ones_like(norm), norm, x, y, None, state, dim).shape == x.shape


def test_reductions_and_their_bits(poison, triton_device, monkeypatch):
    """Nine rows by nine programs, whose sums are added 4 at a time."""
    force_tile(monkeypatch, 1, 8, 2, False)
    monkeypatch.setattr(divergence, "PARTIALS", 4)
    torch.manual_seed(0)
    student, teacher = (torch.randn(9, 9, device=triton_device) for _ in range(2))
    values, _ = truth("tv_dist", student, teacher)
    for reduction, divisor in ((SUM, 1), (MEAN, 9), (BATCHMEAN, 9)):
        first, again = (call("tv_dist", student, teacher, reduction=reduction) for _ in range(2))
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
        assert_near(first[0].reshape(1), values.sum(keepdims=True) / divisor, 3e-7)


def test_types_may_differ(poison, triton_device):
    torch.manual_seed(0)
    student, teacher = (torch.randn(3, 40, dtype=torch.float64, device=triton_device) for _ in range(2))
    for s, t in itertools.product((torch.float64, torch.float32, torch.bfloat16, torch.float16), repeat=2):
        value, grad, _, _ = call("kl_div", student.to(s), teacher.to(t), reduction=SUM)
        wide = torch.float64 in (s, t)
        values, gradients = truth("kl_div", student.to(s), teacher.to(t))
        assert value.dtype == (torch.float64 if wide else torch.float32) and grad.dtype == s
        assert_near(value.reshape(1), values.sum(keepdims=True), 1e-11 if wide else 1e-6)
        error = np.linalg.norm(grad.double().cpu().numpy() - gradients) / np.linalg.norm(
            gradients.astype(float)
        )
        assert (
            error
            <= {torch.float64: 1e-11, torch.float32: 1e-6, torch.bfloat16: 2.5e-3, torch.float16: 4e-4}[s]
        )
