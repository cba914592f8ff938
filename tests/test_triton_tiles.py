"""Every Triton kernel in tiles of a few numbers: loops of several turns, tails of one, full last tiles.

What a kernel may not read (beyond the last element, under a mask) is NaN, and so is what it does not write.
Truth is each op's definition in float64. The divergences, which have more ways, have a file of their own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator

import pytest
import torch
from check import Case, check_op, nan_filled_memory
from feature_checks import noise
from torch import Tensor

import kdfast
import kdfast.functional as KF
from kdfast.ops.attention_masks import attention_masks_reference
from kdfast.ops.bspline_basis import bspline_basis_reference
from kdfast.ops.cross_entropy_kl_div import cross_entropy_kl_div_reference
from kdfast.ops.kan_edge_stats import kan_edge_stats_reference
from kdfast.ops.kan_linear import kan_linear_reference
from kdfast.ops.nd_loss import nd_loss_reference
from kdfast.ops.normalized_mse import normalized_mse_reference
from kdfast.ops.selection_masks import selection_masks_reference
from kdfast.ops.weighted_mse import weighted_mse_reference

if importlib.util.find_spec("triton"):
    from kdfast.triton_kernels import (
        attention_masks,
        bspline_basis,
        kan,
        kan_edge_stats,
        kan_linear,
        nd_loss,
        normalized_mse,
        rows,
        scale_grad,
        selection_masks,
        weighted_mse,
    )

NAN = float("nan")
TILE = 4
SIZES = (1, 3, 4, 5, 9)  # below a tile, full, one beyond a tile, one beyond two


@pytest.fixture
def device(triton_device) -> Iterator[str]:
    with kdfast.use("triton"):
        yield triton_device


def among_nans(x: Tensor) -> Tensor:
    """The same numbers, with NaN before and behind them along every dimension."""
    wide = torch.full([n + 2 for n in x.shape], NAN, dtype=x.dtype)
    inner = wide[(slice(1, -1),) * x.dim()]
    return inner.copy_(x)


def given(*shape: int, seed: int = 0) -> Tensor:
    return among_nans(noise(shape, seed=seed))


def flags(*shape: int) -> Tensor:
    """bool: two of three."""
    return torch.arange(torch.Size(shape).numel()).remainder(3).ne(1).reshape(shape)


def shrink(constants, **to):
    """A module's function that makes a launch's constants, with some of them changed."""
    return lambda *arguments: constants(*arguments) | to


@pytest.mark.parametrize("n", (0, *SIZES))
def test_scale_grad(device, monkeypatch, n):
    monkeypatch.setattr(scale_grad, "BLOCK", TILE)
    wide = torch.full((n + 2, 5), NAN, dtype=torch.float64, device=device)
    grad = wide[1:-1, 1:4]
    grad.copy_(noise((n, 3)))
    expected = grad * -2.5
    torch.ops.kdfast_triton.scale_grad_(grad, torch.tensor(-2.5, dtype=torch.float64, device=device))
    assert torch.equal(grad, expected) and wide.isnan().sum() == wide.numel() - 3 * n


@pytest.mark.parametrize("tile", [(2, 4, 4, False), (1, 2, 2, True), (2, 1, 1, True)], ids=str)
def test_cross_entropy_kl_div(device, monkeypatch, tile):
    """Whole rows; one row of many tiles; rows side by side. The gradient goes block by block."""
    made = rows.Tile(*tile, num_warps=4, num_stages=2)
    monkeypatch.setattr(rows, "choose_tile", lambda *_: made)
    monkeypatch.setattr(rows, "choose_gradient_tile", lambda *_: dataclasses.replace(made, looped=False))

    def cases() -> Iterator[Case]:
        for classes in (4, 5):
            student, teacher = given(3, classes), given(3, classes, seed=1)
            target = torch.tensor([classes - 1, -100, 0])
            yield Case(f"{classes}", (student,), (teacher, target), {"label_smoothing": 0.1})
        student[1], teacher[1] = NAN, NAN
        keywords = {"mask": torch.tensor([True, False, True]), "weight": noise((5,), seed=2).abs()}
        yield Case("a row is dropped", (student,), (teacher, target.clamp(min=1)), keywords)

    check_op(KF.cross_entropy_kl_div, cross_entropy_kl_div_reference, cases(), device)


def test_nd_loss(device, monkeypatch):
    monkeypatch.setattr(nd_loss, "BLOCK", TILE)

    def cases() -> Iterator[Case]:
        for width in SIZES:
            s, t, means = given(3, width), given(3, width, seed=1), given(2, width, seed=2)
            yield Case(f"{width}", (s,), (t, means, torch.tensor([0, 1, 1])))
        s[1], t[1], mask = NAN, NAN, torch.tensor([True, False, True])
        yield Case("a row is dropped", (s,), (t, means, torch.tensor([0, 1, 1])), {"mask": mask})

    check_op(KF.nd_loss, nd_loss_reference, cases(), device)


def test_weighted_mse(device, monkeypatch):
    monkeypatch.setattr(weighted_mse, "POSITIONS", TILE)
    monkeypatch.setattr(weighted_mse, "CHANNELS", TILE)

    def call(function):
        return lambda s, a, b, t, gain: function(s, t, position=a, channel=b, gain=gain)

    def cases() -> Iterator[Case]:
        for positions, channels in ((1, 9), (4, 4), (5, 3), (9, 5)):
            shape = (2, positions, channels)
            s, t = given(*shape), given(*shape, seed=1)
            weights = (noise((2, n), seed=2).abs() for n in (positions, channels, channels))
            position, channel, gain = weights
            yield Case(f"{shape}", (s, position, channel), (t, gain))

    check_op(call(KF.weighted_mse), call(weighted_mse_reference), cases(), device)


@pytest.mark.parametrize("center", [False, True])
def test_normalized_mse(device, monkeypatch, center):
    monkeypatch.setattr(normalized_mse, "POSITIONS", TILE)
    monkeypatch.setattr(normalized_mse, "CHANNELS", TILE)

    def cases() -> Iterator[Case]:
        for positions, channels in ((1, 9), (4, 4), (5, 3), (9, 5)):
            s, t = given(2, positions, channels), given(2, positions, channels, seed=1)
            yield Case(f"{positions}x{channels}", (s,), (t,), {"center": center})

    check_op(KF.normalized_mse, normalized_mse_reference, cases(), device)


def test_attention_masks(device, monkeypatch):
    monkeypatch.setattr(attention_masks, "MOST_CHANNELS", TILE)
    monkeypatch.setattr(attention_masks, "MOST_MASKS", TILE)
    plan_of = attention_masks.plan_of
    small = {"query_tile": 2 * TILE, "key_tile": TILE}
    monkeypatch.setattr(attention_masks, "plan_of", lambda *x: plan_of(*x)._replace(**small))

    def cases() -> Iterator[Case]:
        for width, queries, keys, masks in ((4, 8, 5, 1), (5, 9, 4, 5)):
            q, k = given(2, width, queries), given(2, width, keys, seed=1)
            v = given(2, masks, keys, seed=2)
            yield Case(f"{width}, {queries}x{keys}, {masks}", (q, k, v), (), {}, 1e-12)
        query_mask, key_mask = flags(2, queries), flags(2, keys)
        q, k = (x.masked_fill(~m.unsqueeze(1), NAN) for x, m in ((q, query_mask), (k, key_mask)))
        v = v.masked_fill(~key_mask.unsqueeze(1), NAN)
        masks = {"query_mask": query_mask, "key_mask": key_mask}
        yield Case("masks", (q, k, v), (), masks, 1e-12)

    check_op(KF.attention_masks, attention_masks_reference, cases(), device)


def test_selection_masks(device, monkeypatch):
    for constant, size in (("TILE", TILE), ("CHANNELS", TILE), ("PARTS", 2)):
        monkeypatch.setattr(selection_masks, constant, size)
    monkeypatch.setattr(selection_masks, "_constants", shrink(selection_masks._constants, MB=TILE))

    def cases() -> Iterator[Case]:
        for channels, (height, width), masks in ((1, (1, 4), 1), (4, (3, 3), 4), (5, (5, 4), 5)):
            fused, units = given(2, channels, height, width), given(masks, channels, seed=1)
            of_channels = noise((masks, 1), seed=2)
            yield Case(f"{channels}, {height}x{width}", (fused, units, of_channels), (), {}, 1e-12)
        valid = flags(2, height, width)
        fused = fused.masked_fill(~valid.unsqueeze(1), NAN)
        yield Case("valid", (fused, units, of_channels), (), {"valid_mask": valid}, 1e-12)

    check_op(KF.selection_masks, selection_masks_reference, cases(), device)


def layers(grid: Tensor) -> Iterator[Case]:
    """x [samples, 3], coef, scale and base_weight of KAN layers of degree 2."""
    for samples, out in ((1, 5), (5, 4)):
        x = given(samples, 3)
        coef = given(out, 3, grid.numel() - 3, seed=1)
        scale, base = given(out, 3, seed=2), given(out, 3, seed=3)
        yield Case(f"{samples}x{out}", (x, coef, scale, base), (), {}, 1e-12)


GRID = torch.linspace(-2, 2, 9, dtype=torch.float64)


def of_layer(function):
    def call(x, coef, scale, base):
        return function(x, coef, grid=GRID.to(x.device), degree=2, scale=scale, base_weight=base)

    return call


@pytest.mark.parametrize("plan", ["dense", "local"])
def test_kan_linear(device, monkeypatch, plan):
    monkeypatch.setattr(kan, "DENSE_UP_TO", dict.fromkeys(kan.DENSE_UP_TO, 99 if plan == "dense" else 0))
    for constant, size in (("SAMPLES", TILE), ("SPLIT", TILE), ("COLUMNS", 16)):
        monkeypatch.setattr(kan_linear, constant, size)
    monkeypatch.setattr(kan_linear, "_constants", shrink(kan_linear._constants, OUT=TILE))
    check_op(of_layer(KF.kan_linear), of_layer(kan_linear_reference), layers(GRID), device)


def test_kan_edge_stats(device, monkeypatch):
    for constant in ("SAMPLES", "OUT"):
        monkeypatch.setattr(kan_edge_stats, constant, TILE)
    cases = (case for case in layers(GRID) if len(case.inputs[0]) > 1)  # a variance needs two samples
    check_op(of_layer(KF.kan_edge_stats), of_layer(kan_edge_stats_reference), cases, device)


@pytest.mark.parametrize("samples", SIZES)
def test_bspline_basis(device, monkeypatch, samples):
    """Tiles of 4 points by 8 bases, of which 6 exist."""
    monkeypatch.setattr(bspline_basis, "NUMBERS", 8 * TILE)
    x, grid = given(samples, 3).to(device), GRID.to(device)
    with nan_filled_memory():
        ours = KF.bspline_basis(x, grid, 2)
    torch.testing.assert_close(ours, bspline_basis_reference(x, grid, 2), rtol=1e-12, atol=1e-12)
