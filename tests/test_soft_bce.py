"""soft_bce: Dynamic Y-KD's term on mask logits."""

import pytest
import torch
from check import Case, check_op
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

import kdfast.functional as KF
from kdfast.ops.soft_bce import soft_bce_reference

OP = "soft_bce"


def test_vector(place):
    t, s = wave((4, 3, 2, 2), 3.0, 0.2).to(place), wave((4, 5, 2, 2), 3.0, 0.9).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.soft_bce(s, t), s)
    near(value, 1.09582431479, 1e-11), near(size(grad), 0.381687825098, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [4.74256674982e-5, -0.005138323554, -0.007158654443], rel=1e-9
    )
    gradcheck(lambda s: KF.soft_bce(s, t), s)


def test_is_finite_for_saturated_masks(place):
    s, t = (
        torch.tensor([-200.0, 200.0], device=place).reshape(1, 2, 1, 1),
        torch.tensor([200.0, 200.0], device=place).reshape(1, 2, 1, 1),
    )
    near(KF.soft_bce(s, t), 100)


def test_keeps_its_digits_where_both_are_sure(place):
    for centre, apart in ((20.0, 1.0), (-20.0, 1.0), (10.0, 1e-3), (0.0, 1e-4)):
        t = noise((2, 3, 5, 7), torch.float32) + centre
        s = t + apart * noise((2, 3, 5, 7), torch.float32, 1)
        x, y = s.double(), t.double()
        # sigmoid(x) - sigmoid(y) = (tanh(x / 2) - tanh(y / 2)) / 2, and the addition theorem
        expected = ((x - y) / 2).sinh() / (2 * (x / 2).cosh() * (y / 2).cosh()) / x.numel()
        value, (grad,) = value_and_grads(lambda s, t=t: KF.soft_bce(s, t.to(place)), s.to(place))
        loss = (-x).exp().log1p() * y.sigmoid() + x.exp().log1p() * (-y).sigmoid()
        near(value, loss.mean().item(), 1e-6)
        assert size(grad.cpu().double() - expected) < 1e-3 * size(expected)


def test_slope_where_the_logit_is_zero(place):
    t = torch.tensor([[[[-1.0, 0.0, 2.0]]]], device=place)
    _, (grad,) = value_and_grads(lambda s: KF.soft_bce(s, t), torch.zeros_like(t))
    torch.testing.assert_close(grad, (0.5 - t.sigmoid()) / 3)


RESTS = ((1, 1), (3, 5), (14, 14), (40, 41))


def cases(dtype):
    """Proposals, the student's classes, the teacher's; then strides."""
    for rows, new, old in ((0, 5, 3), (1, 2, 2), (3, 5, 3), (7, 21, 20), (2, 40, 9)):
        for rest in RESTS:
            yield Case(f"{rows} {new} {old} {rest}", (noise((rows, new, *rest), dtype),),
                       (noise((rows, old, *rest), dtype, 1),))  # fmt: skip
    s, t = noise((3, 6, *RESTS[-1]), dtype), noise((3, 6, *RESTS[-1]), dtype, 1)
    yield Case("rows far apart", (s[::2],), (t[::2, :4],))
    yield Case("every other class", (s[:, ::2],), (t[:, 1::2],))
    yield Case("turned", (s.mT.contiguous().mT,), (t[:, :5].mT.contiguous().mT,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(KF.soft_bce, soft_bce_reference, cases(dtype), place)


def test_nothing_to_compare_is_zero(place):
    s, t = noise((0, 5, *RESTS[0])).to(place), noise((0, 3, *RESTS[0])).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.soft_bce(s, t), s)
    assert value == 0 and grad.shape == s.shape


def test_works_with_pytorch(place):
    s, t = (noise((3, n, *RESTS[0]), torch.float32, n).to(place) for n in (5, 3))
    works_with_pytorch(lambda s: KF.soft_bce(s, t), s)


def test_opcheck(need):
    need.backend("native")
    s, t = noise((3, 20), torch.float32), noise((3, 12), torch.float32, 1)
    torch.library.opcheck(torch.ops.kdfast.soft_bce.default, (s, t, True))
    torch.library.opcheck(torch.ops.kdfast.soft_bce_backward.default, (torch.ones(()), s, t))


def test_bad_input():
    refuses(ValueError, "student must be", KF.soft_bce, torch.rand(2, 3, 5), torch.rand(2, 3, 5))
    refuses(
        ValueError,
        "at least the teacher's classes",
        KF.soft_bce,
        torch.rand(2, 3, 5, 5),
        torch.rand(2, 4, 5, 5),
    )
