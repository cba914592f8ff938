"""class_box_l2, soft_bce and rpn_distill: Dynamic Y-KD's terms beside the classes'."""

import pytest
import torch
from feature_checks import (
    DTYPES,
    gradcheck,
    near,
    noise,
    refuses,
    size,
    value_and_grads,
    wave,
    works_with_pytorch,
)

import kdfast.functional as KF


def test_class_box_l2_vector(place):
    t, s = wave((4, 3, 4), 1.0, 0.7).to(place), wave((4, 5, 4), 1.0, 1.1).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.class_box_l2(s, t), s)
    near(value, 3.93726435598, 1e-11), near(size(grad), 6.43079391489, 1e-11)
    assert not grad[:, 0].any() and not grad[:, 3:].any()
    gradcheck(lambda s: KF.class_box_l2(s, t), s)


def test_soft_bce_vector(place):
    t, s = wave((4, 3, 2, 2), 3.0, 0.2).to(place), wave((4, 5, 2, 2), 3.0, 0.9).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.soft_bce(s, t), s)
    near(value, 1.09582431479, 1e-11), near(size(grad), 0.381687825098, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [4.74256674982e-5, -0.005138323554, -0.007158654443], rel=1e-9
    )
    gradcheck(lambda s: KF.soft_bce(s, t), s)


def test_soft_bce_is_finite_for_saturated_masks(place):
    s, t = (
        torch.tensor([-200.0, 200.0], device=place).reshape(1, 2, 1, 1),
        torch.tensor([200.0, 200.0], device=place).reshape(1, 2, 1, 1),
    )
    near(KF.soft_bce(s, t), 100)


def rpn(place):
    waves = ((1, 2, 2, 3), 1.9), ((1, 2, 2, 3), 0.4), ((1, 8, 2, 3), 2.2), ((1, 8, 2, 3), 0.1)
    return [wave(shape, 1.0, phase).to(place) for shape, phase in waves]


def test_rpn_vector(place):
    so, to, sd, td = rpn(place)
    (value, (grad, _)) = value_and_grads(lambda so, sd: KF.rpn_distill(so, to, sd, td)[0], so, sd)
    near(value, 0.488691196929, 1e-11), near(size(grad), 0.927729161847, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [-0.124366733462, -0.227204889956, -0.121151918433], rel=1e-10
    )
    (value, (none, grad)) = value_and_grads(lambda so, sd: KF.rpn_distill(so, to, sd, td)[1], so, sd)
    near(value, 2.98745746142, 1e-11), near(size(grad), 4.41602031267, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [-0.158263583915, -0.289130856510, -0.154172553026], rel=1e-10
    )
    assert not none.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_nothing(place, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for rows in (0, 3):
        s, t = noise((rows, 5, 4), dtype).to(place), noise((rows, 3, 4), dtype, 1).to(place)
        m, n = noise((rows, 5, 2, 2), dtype).to(place), noise((rows, 3, 2, 2), dtype, 1).to(place)
        for function, a, b in ((KF.class_box_l2, s, t), (KF.soft_bce, m, n)):
            value, (grad,) = value_and_grads(lambda x, f=function, y=b: f(x, y), a)
            assert value.dtype == wide and grad.dtype == dtype and (rows or value == 0)
    value, (grad, _) = value_and_grads(
        lambda a, b: sum(KF.rpn_distill(a, a.detach(), b, b.detach())),
        noise((0, 3, 2, 2), dtype),
        noise((0, 12, 2, 2), dtype),
    )
    assert value == 0


def test_works_with_pytorch(place):
    s, t = noise((3, 5, 4), torch.float32).to(place), noise((3, 3, 4), torch.float32, 1).to(place)
    works_with_pytorch(lambda s: KF.class_box_l2(s, t), s)
    m, n = noise((3, 5, 2, 2), torch.float32).to(place), noise((3, 3, 2, 2), torch.float32, 1).to(place)
    works_with_pytorch(lambda s: KF.soft_bce(s, n), m)
    so, to, sd, td = (x.float() for x in rpn(place))
    works_with_pytorch(lambda sd: sum(KF.rpn_distill(so, to, sd, td)), sd)


def test_bad_input():
    refuses(
        ValueError,
        "at least the teacher's classes",
        KF.class_box_l2,
        torch.rand(2, 3, 4),
        torch.rand(2, 4, 4),
    )
    refuses(ValueError, "4 deltas", KF.class_box_l2, torch.rand(2, 3, 5), torch.rand(2, 3, 5))
    refuses(ValueError, "student must be", KF.soft_bce, torch.rand(2, 3, 5), torch.rand(2, 3, 5))
    refuses(
        ValueError,
        "student_deltas must be",
        KF.rpn_distill,
        *[torch.rand(1, 2, 2, 2)] * 2,
        *[torch.rand(1, 6, 2, 2)] * 2,
    )
