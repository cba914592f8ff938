"""nd_loss: the norm-and-direction loss."""

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

import kdfast
import kdfast.functional as KF
from kdfast.ops.nd_loss import nd_loss_reference


def vector(*, tied=False):
    student = wave((6, 5))
    teacher = student.clone() if tied else wave((6, 5), 1.1, 2.0)
    return student, teacher, wave((4, 5), 1.0, 1.0), torch.arange(6) % 4


def official_loop(student, teacher, means, target):
    """The published loop, sample by sample."""
    total = 0
    for s, t, y in zip(student, teacher, target, strict=True):
        direction = means[y] / means[y].norm()
        total = total + 1 - (s * direction).sum() / max(s.norm(), t.norm())
    return total / len(student)


def test_vector_1(place):
    s, t, means, y = (x.to(place) for x in vector())
    rows = KF.nd_loss(s, t, means, y, reduction="none")
    for ours, expected in zip(
        rows,
        (0.3439927853, 0.6128258558, 0.5209187544, 0.3605587767, 0.2281181233, 0.007778731443),
        strict=True,
    ):
        near(ours, expected)
    value, (grad,) = value_and_grads(lambda s: KF.nd_loss(s, t, means, y), s)
    near(value, 0.3456988378), near(size(grad), 0.9493238306)
    value, (grad,) = value_and_grads(lambda s: 1.5 * KF.nd_loss(s, t, means, y), s)
    near(value, 0.5185482567), near(size(grad), 1.423985746)
    means[3] = torch.nan
    value, (grad,) = value_and_grads(lambda s: KF.nd_loss(s, t, means, y), s)
    near(value, 0.34272685, 1e-7), near(size(grad), 0.8806852616)
    assert not grad[3].any()


def test_vector_2_ties_go_to_the_student(place):
    s, t, means, y = (x.to(place) for x in vector(tied=True))
    value, (grad,) = value_and_grads(lambda s: KF.nd_loss(s, t, means, y), s)
    near(value, 0.2837579392), near(size(grad), 0.7441991138)


def test_vector_3_zeros(place):
    means, y = wave((4, 5), 1.0, 1.0).to(place), torch.tensor([0], device=place)
    zero, t = torch.zeros(1, 5, dtype=torch.float64, device=place), wave((1, 5), 1.1, 2.0).to(place)
    value, (grad,) = value_and_grads(lambda s: KF.nd_loss(s, t, means, y), zero)
    near(value, 1), near(size(grad), 1.252411803)
    for teacher, class_means in ((zero, means), (t, torch.zeros_like(means))):
        value, (grad,) = value_and_grads(lambda s, a=teacher, c=class_means: KF.nd_loss(s, a, c, y), zero)
        assert value == 1 and not grad.any()
    value, (grad,) = value_and_grads(lambda s: KF.nd_loss(s, t, torch.zeros_like(means), y), t)
    assert value == 1 and not grad.any()


def test_the_loop_agrees(place):
    s, t, means, y = (x.to(place) for x in vector())
    ours = value_and_grads(lambda s: KF.nd_loss(s, t, means, y), s)
    loop = value_and_grads(lambda s: official_loop(s, t, means, y), s)
    torch.testing.assert_close(ours, loop)


def cases(dtype):
    for rows, width, classes in (
        (0, 5, 2), (1, 2, 2), (3, 7, 3), (5, 8, 10), (9, 255, 81), (4, 257, 100), (3, 2049, 1000),
    ):  # fmt: skip
        s, t, means = (
            noise((rows, width), dtype),
            noise((rows, width), dtype, 1),
            noise((classes, width), torch.float32, 2),
        )
        yield Case(f"{rows}x{width}", (s,), (t, means, torch.arange(rows) * 7 % classes))
    s, t, means, y = (
        noise((6, 40), dtype),
        noise((6, 40), dtype, 1),
        noise((4, 40), dtype, 2),
        torch.tensor([0, 1, -100, 3, 2, 1]),
    )
    for reduction in ("mean", "sum", "none", "batchmean"):
        yield Case(reduction, (s,), (t, means, y), {"reduction": reduction})
    mask = torch.tensor([True, False, True, True, True, True])
    yield Case("mask", (s,), (t, means, y), {"mask": mask})
    yield Case("weights", (s,), (t, means, y), {"mask": mask * torch.linspace(0.5, 2, 6)})
    yield Case("nothing counted", (s,), (t, means, torch.full((6,), -100)))
    yield Case("strides", (s[:, ::2],), (t[:, 1::2], means.t().contiguous().t()[:, :20], y))
    yield Case("transposed", (s.t()[:6],), (t.t()[:6], means[:, :6], y))
    yield Case("expanded", (s,), (t[:1].expand(6, 40), means[:1].expand(4, 40), y.int()))
    yield Case("longer teacher", (s,), (t * 2, means, y))
    yield Case("mixed", (s,), (t.float(), means, y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(KF.nd_loss, nd_loss_reference, cases(dtype), place)


def test_norms_past_the_range_of_half(place):
    s, t = (torch.full((2, 64), x, dtype=torch.float16, device=place) for x in (200.0, 100.0))
    means = torch.ones(3, 64, device=place)
    value, (grad,) = value_and_grads(lambda s: KF.nd_loss(s, t, means, torch.tensor([0, 1], device=place)), s)
    assert abs(float(value)) < 1e-6 and not grad.isnan().any()


def test_nan_in_a_dropped_row_is_harmless(place):
    s, t, means, y = (x.to(place) for x in vector())
    mask = torch.tensor([1, 1, 0, 1, 1, 1], device=place)
    expected = value_and_grads(lambda s: KF.nd_loss(s, t, means, y, mask=mask.bool()), s)
    s[2], t[2] = torch.nan, torch.nan
    torch.testing.assert_close(
        value_and_grads(lambda s: KF.nd_loss(s, t, means, y, mask=mask.bool()), s), expected
    )
    assert KF.nd_loss(s, t, means, y).isnan()


def test_gradcheck(place):
    s, t, means, y = (x.to(place) for x in vector())
    for reduction in ("mean", "sum", "none"):
        gradcheck(lambda s, r=reduction: KF.nd_loss(s, t, means, y, reduction=r), s)


def test_works_with_pytorch(place):
    s, t, means, y = (x.float().to(place) if x.is_floating_point() else x.to(place) for x in vector())
    works_with_pytorch(lambda s: KF.nd_loss(s, t, means, y), s)


def test_opcheck(need):
    need.backend("native")
    s, t, means, y = (x.float() if x.is_floating_point() else x for x in vector())
    for reduction, with_grad in ((1, True), (0, False)):
        torch.library.opcheck(
            torch.ops.kdfast.nd_loss.default, (s, t, means, y, None, -100, reduction, with_grad)
        )
    one = torch.ones(())
    torch.library.opcheck(torch.ops.kdfast.nd_loss_backward.default, (one, one, s, t, means, y, None, -100))


def test_bad_input(place):
    s, t, means, y = (x.to(place) for x in vector())
    refuses(TypeError, "student must be a tensor", KF.nd_loss, 1, t, means, y)
    refuses(TypeError, "target must hold integers", KF.nd_loss, s, t, means, y.float())
    refuses(ValueError, "same shape", KF.nd_loss, s, t[:5], means, y)
    refuses(ValueError, "class_means must be", KF.nd_loss, s, t, means[:, :4], y)
    refuses(ValueError, "target must be", KF.nd_loss, s, t, means, y[:5])
    refuses(ValueError, "mask must have", KF.nd_loss, s, t, means, y, mask=torch.ones(5, device=place))
    refuses(TypeError, "ignore_index must be an int", KF.nd_loss, s, t, means, y, ignore_index=0.5)
    refuses(ValueError, "reduction must be", KF.nd_loss, s, t, means, y, reduction="max")
    if place == "cpu":
        refuses(ValueError, r"^target must be in \[0, 2\], got 3", KF.nd_loss, s, t, means[:3], y)


def test_module():
    s, t, means, y = vector()
    expected = KF.nd_loss(s, t, means, y)
    module = kdfast.nn.NDLoss(means)
    assert torch.equal(module(s, t, y), expected) and torch.equal(
        kdfast.nn.NDLoss()(s, t, means, y), expected
    )
    assert isinstance(module, torch.nn.modules.loss._Loss) and not module.state_dict()
