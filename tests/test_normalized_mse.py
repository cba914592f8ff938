"""normalized_mse: squared distances of normalised features, ScaleKD's two views."""

import pytest
import torch
from check import Case, check_op, interpreted, not_too_large
from feature_checks import (
    DTYPES,
    gradcheck,
    near,
    noise,
    refuses,
    size,
    value_and_grads,
    works_with_pytorch,
)
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.normalized_mse import normalized_mse_reference


def vector():
    return wave((2, 4, 3)), (0.5 + wave((2, 3, 2, 2), 1.0, 0.8)).flatten(2).mT


@pytest.mark.parametrize(
    "factor, center, value, grad, first",
    [
        (0.08, False, 0.673330394111, 0.601865795295, (-0.033590530335, 0.031194744739, -0.000707514706)),
        (0.06, True, 0.505435071373, 0.565152025401, (-0.040687991771, 0.031582965198, -0.008989420492)),
    ],
)
def test_vector(place, factor, center, value, grad, first):
    s, t = (x.to(place) for x in vector())
    ours, (ours_grad,) = value_and_grads(
        lambda s: factor * KF.normalized_mse(s, t, center=center, eps=1e-12), s
    )
    near(ours, value, 1e-11), near(size(ours_grad), grad, 1e-11)
    for a, b in zip(ours_grad.flatten(), first, strict=False):
        near(a, b, 1e-8)


def cosine_transform(size):
    n = torch.arange(size, dtype=torch.float64)
    return 2 * torch.cos(torch.pi * n[:, None] * (2 * n + 1) / (2 * size))


def test_center_is_the_view_without_the_constant_cosine(place):
    maps = noise((2, 3, 7, 7)).to(place)
    dct = cosine_transform(7).to(place)
    coefficients = dct @ maps @ dct.mT
    coefficients[..., 0, 0] = 0
    back = torch.linalg.solve(dct, torch.linalg.solve(dct, coefficients).mT).mT
    other = noise((2, 3, 7, 7), seed=1).to(place)
    expected = KF.normalized_mse(back, other, dim=1, eps=1e-12)
    centred = maps - maps.mean((2, 3), keepdim=True)
    torch.testing.assert_close(back, centred)
    torch.testing.assert_close(KF.normalized_mse(centred, other, dim=1, eps=1e-12), expected)


def cases(dtype):
    def case(name, shape, to=lambda x: x, **keywords):
        return Case(name, (to(noise(shape, dtype)),), (to(noise(shape, dtype, 1)),), keywords)

    for rows, width in ((1, 1), (3, 7), (4, 8), (3, 9), (2, 255), (5, 257), (0, 4), (3, 1000)):
        yield case(f"{rows}x{width}", (rows, width))
    for center in (False, True):
        yield case(f"tokens {center}", (2, 49, 33), center=center)
        yield case(f"maps {center}", (3, 96, 7, 7), dim=1, center=center)
        yield case(f"wide maps {center}", (1, 5, 30, 41), dim=1, center=center)
        yield case(
            f"channels last {center}",
            (2, 24, 5, 6),
            lambda x: x.to(memory_format=torch.channels_last),
            dim=1,
            center=center,
        )
        yield case(f"strides {center}", (2, 9, 6, 10), lambda x: x[..., ::2], dim=1, center=center)
    for reduction in ("none", "sum", "mean"):
        yield case(reduction, (2, 9, 5), reduction=reduction, center=True)
    yield case("joined", (2, 5, 4, 6), dim=(2, 3))
    yield case("joined, apart", (2, 5, 4, 6), dim=(1, 3), center=True)
    yield case("one row", (12,), dim=0)
    s = noise((4, 60), dtype)
    yield Case("near", ((s.double() * (1 + 1e-2 * noise((4, 60), seed=3))).to(dtype),), (s,))


@pytest.mark.parametrize("dtype", DTYPES[1:3] if interpreted() else DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(KF.normalized_mse, normalized_mse_reference, not_too_large(cases(dtype), 600), place)


@pytest.mark.parametrize("value", [3.0, 0.1])
def test_constant_maps_get_no_gradient(place, value):
    s, t = torch.full((2, 8, 7, 7), value, device=place), noise((2, 8, 7, 7), torch.float32).to(place)
    loss, (grad,) = value_and_grads(lambda s: KF.normalized_mse(s, t, dim=1, center=True), s)
    assert not grad.any()
    near(loss, 49, 1e-4)


def test_tiny_rows(place):
    s, t = torch.zeros(1, 4, dtype=torch.float64, device=place), wave((1, 4)).to(place)
    for eps in (0.0, 1e-6):
        value, (grad,) = value_and_grads(lambda s, eps=eps: KF.normalized_mse(s, t, eps=eps), s)
        near(value, 1), torch.testing.assert_close(grad, torch.zeros_like(s))
    s = torch.tensor([[3e-7, 0, 0, 0]], dtype=torch.float64, device=place)
    near(KF.normalized_mse(s, s), 0)
    near(KF.normalized_mse(s, torch.zeros_like(s)), 0.09)


def test_accurate_near_convergence(place):
    s = noise((8, 300), torch.float32).to(place)
    t = s * (1 + 1e-4 * noise((8, 300), torch.float32, 1).to(place))
    value, (grad,) = value_and_grads(lambda s: KF.normalized_mse(s, t), s)
    true, (true_grad,) = value_and_grads(lambda s: normalized_mse_reference(s, t.double()), s.double())
    assert abs(value - true) < 1e-3 * true and (grad - true_grad).norm() < 1e-3 * true_grad.norm()


@pytest.mark.parametrize("center", [False, True])
def test_gradients(place, center):
    s, t = (x.to(place) for x in vector())
    for reduction in ("none",) if interpreted() else ("batchmean", "none"):
        gradcheck(lambda s, r=reduction: KF.normalized_mse(s, t, center=center, reduction=r), s)
    works_with_pytorch(lambda s: KF.normalized_mse(s, t.float(), center=center), s.float())


def test_opcheck(need):
    need.backend("native")
    s, t = (x.float() for x in vector())
    for center in (False, True):
        for options in ((True, True), (False, False)):
            torch.library.opcheck(
                torch.ops.kdfast.normalized_mse.default, (s, t, center, 1e-6, 1.0, *options)
            )
        backward = torch.ops.kdfast.normalized_mse_backward.default
        torch.library.opcheck(backward, (torch.ones(()), s, t, center, 1e-6, 1.0))


def test_bad_input_and_module():
    s, t = vector()
    refuses(ValueError, "center needs a dimension", KF.normalized_mse, s[0], t[0], center=True)
    refuses(ValueError, "eps must be", KF.normalized_mse, s, t, eps=-1e-6)
    refuses(ValueError, "same shape", KF.normalized_mse, s, t[:1])
    refuses(ValueError, "dim must be in", KF.normalized_mse, s, t, dim=3)
    refuses(ValueError, "reduction must be", KF.normalized_mse, s, t, reduction="avg")
    module = kdfast.nn.NormalizedMSELoss(center=True)
    assert torch.equal(module(s, t), KF.normalized_mse(s, t, center=True))
