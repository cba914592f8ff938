# ruff: noqa: B023, E731 - these lambdas are called within their round of the loop
"""The CUDA kernels of the losses on features, on the emulated device, against the definitions."""

import pytest
import torch
from feature_checks import noise, value_and_grads
from native import feature_runs as runs

from kdfast.ops.nd_loss import nd_loss_reference
from kdfast.ops.normalized_mse import normalized_mse_reference
from kdfast.ops.weighted_mse import weighted_mse_reference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 2e-3}
LAYOUTS = {
    "tokens": lambda x: x,
    "maps": lambda x: x.mT.contiguous().mT,
    "apart": lambda x: torch.cat([x, x], 2)[..., ::2],
}
SHAPES = ((1, 1, 1), (2, 5, 33), (1, 49, 130), (2, 70, 8))


def agree(ours, expected, dtype):
    assert not ours.isnan().any()
    torch.testing.assert_close(
        ours.double(),
        expected.double(),
        rtol=ROUNDING[dtype],
        atol=ROUNDING[dtype] * float(expected.abs().max()) + 1e-12,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order, seed", [("in_order", 0), ("shuffled", 1)])
def test_nd_loss(native, dtype, order, seed):
    native.set_device(order=order, seed=seed)
    for rows, width in ((1, 2), (5, 33), (3, 257)):
        s, t, means = (
            noise((rows, width), dtype),
            noise((rows, width), dtype, 1),
            noise((4, width), torch.float32, 2),
        )
        target = torch.arange(rows) % 4
        target[rows // 2] = -100 if rows > 1 else 0
        means[3] = torch.nan
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        mask, up = torch.linspace(0.5, 2, rows).to(wide), torch.linspace(1, 3, rows).to(wide)
        define = lambda s, r: nd_loss_reference(
            s.double(), t.double(), means.double(), target, mask=mask.double(), reduction=r
        )  # noqa: E731
        expected, (grad,) = value_and_grads(lambda s: define(s, "sum"), s)
        value, weight, ours = runs.nd_loss(native, s, t, means, target, mask=mask)
        (
            agree(1 + value.sum(), 1 + expected, dtype if dtype == torch.float64 else torch.float32),
            agree(ours, grad, dtype),
        )  # a value is 1 minus a cosine: its rounding is that of 1
        assert torch.equal(weight, torch.where((target < 0) | (target == 3), 0, mask))
        _, (grad,) = value_and_grads(lambda s: (define(s, "none") * up).sum(), s)
        agree(runs.nd_loss(native, s, t, means, target, mask=mask, upstream=up)[2], grad, dtype)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_normalized_mse(native, dtype, layout, center):
    for shape in SHAPES:
        s, t = LAYOUTS[layout](noise(shape, dtype)), LAYOUTS[layout](noise(shape, dtype, 1))
        up = (
            torch.linspace(1, 3, shape[0] * shape[1])
            .reshape(shape[:2])
            .to(torch.float64 if dtype == torch.float64 else torch.float32)
        )
        define = lambda s: normalized_mse_reference(s.double(), t.double(), center=center, reduction="none")  # noqa: E731
        expected, (grad,) = value_and_grads(lambda s: define(s).sum(), s)
        value, ours = runs.normalized_mse(native, s, t, center=center)
        (
            agree(value.sum(), expected, dtype if dtype == torch.float64 else torch.float32),
            agree(ours, grad, dtype),
        )
        _, (grad,) = value_and_grads(lambda s: (define(s) * up).sum(), s)
        agree(runs.normalized_mse(native, s, t, center=center, upstream=up)[1], grad, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weighted_mse(native, dtype, layout):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for shape in (*SHAPES, (1, 2100, 3)):
        s, t = LAYOUTS[layout](noise(shape, dtype)), LAYOUTS[layout](noise(shape, dtype, 1))
        a, b, v = (
            noise((shape[0], n), wide, k).abs() for n, k in ((shape[1], 2), (shape[2], 3), (shape[2], 4))
        )
        for weights in ({"position": a}, {"channel": b}, {"position": a, "channel": b, "gain": v}):
            double = {k: w.double() for k, w in weights.items()}
            define = lambda s, u, w: sum(
                x * y
                for x, y in zip(weighted_mse_reference(s.double(), t.double(), **double), (u, w), strict=True)
            )  # noqa: E731, B023
            expected, (grad,) = value_and_grads(lambda s: define(s, 1, 1), s)  # noqa: B023
            values, _, _, ours = runs.weighted_mse(native, s, t, **weights)
            agree(values.sum(), expected, wide), agree(ours, grad, dtype)
            _, (grad,) = value_and_grads(lambda s: define(s, 0.5, 2), s)  # noqa: B023
            before = ours.clone()
            runs.weighted_mse(native, s, t, **weights, upstream=(1.0, 1.0), grad=ours, unless_equal=True)
            assert torch.equal(ours, before)
            agree(
                runs.weighted_mse(native, s, t, **weights, upstream=(0.5, 2.0), grad=ours, unless_equal=True),
                grad,
                dtype,
            )


def test_padding_may_hold_nan(native):
    s, t, a = noise((1, 6, 4), torch.float32), noise((1, 6, 4), torch.float32, 1), torch.ones(1, 6)
    a[0, 4:], s[0, 4:] = 0, torch.nan
    for layout in LAYOUTS.values():
        values, _, _, grad = runs.weighted_mse(native, layout(s), layout(t), position=a)
        agree(values[0], (layout(t) - layout(s))[:, :4].square().sum(), torch.float32)
        assert not grad[0, 4:].any() and not grad.isnan().any()
