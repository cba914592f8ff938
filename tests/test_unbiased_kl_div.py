"""unbiased_kl_div: its vector, the closed gradient, no new classes, classes that cannot occur."""

import loss_checks as checks
import pytest
import torch
from check import Case, check_op, logits
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.unbiased_kl_div import unbiased_kl_div_reference

OP = "unbiased_kl_div"
STUDENT, TEACHER = wave((4, 5), 2.0, 0.3), wave((4, 3), 2.0, 0.0)


def cases(dtype):
    for rows, old, new in (
        (0, 3, 2),
        (1, 1, 1),
        (3, 1, 0),
        (3, 16, 5),
        (4, 91, 10),
        (2, 300, 7),
        (3, 1000, 0),
    ):
        student, _ = logits((rows, old + new), dtype, seed=old)
        _, teacher = logits((rows, old), dtype, seed=new)
        rounding = 1e-7 if old == 1 and dtype != torch.float64 else 1e-13  # p - p (q = 1): no gradient
        yield Case(f"{rows}: {old} + {new}", (student,), (teacher,), {"num_new": new}, rounding)
    student, teacher = logits((6, 70), dtype, "peaky")
    yield Case("sliced", (student[::2, 1::3],), (teacher[1::2, 0:60:3],), {"num_new": 3})
    yield Case("transposed", (student.t(),), (teacher[:4].t(),), {"num_new": 2})
    yield Case("deep", (student.reshape(2, 3, 70),), (teacher.reshape(2, 3, 70)[..., :60],), {"num_new": 10})


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    for reduction in ("mean", "none", "batchmean", "sum"):
        call = lambda *a, r=reduction, **k: KF.unbiased_kl_div(*a, **k, reduction=r)  # noqa: E731
        plain = lambda *a, r=reduction, **k: unbiased_kl_div_reference(*a, **k, reduction=r)  # noqa: E731
        check_op(call, plain, cases(dtype), place)


def test_vector(place):
    student, teacher = STUDENT.to(place), TEACHER.to(place)
    call = lambda s: KF.unbiased_kl_div(s, teacher, num_new=2)  # noqa: E731
    checks.has_value(call, student, 0.524867173667, 0.240150888601)
    first = torch.tensor(
        [0.013041171488, -0.010023594501, -0.003680712562], dtype=torch.float64, device=place
    )
    torch.testing.assert_close(checks.gradient(call, student)[0, :3], first, rtol=1e-9, atol=0)


def test_no_new_class_is_a_cross_entropy(place):
    student, teacher = STUDENT[:, :3].to(place), TEACHER.to(place)
    expected = -(teacher.softmax(1) * student.log_softmax(1)).mean()
    torch.testing.assert_close(KF.unbiased_kl_div(student, teacher, num_new=0), expected)


def test_rows_and_classes_that_cannot_occur(place):
    inf = float("inf")
    student, teacher = STUDENT.to(place).clone(), TEACHER.to(place).clone()
    expected = KF.unbiased_kl_div(student[:1], teacher[:1], num_new=2)
    student[1], teacher[2] = -inf, -inf
    call = lambda s: KF.unbiased_kl_div(s, teacher, num_new=2, reduction="none")  # noqa: E731
    torch.testing.assert_close(KF.unbiased_kl_div(student[:3], teacher[:3], num_new=2), expected)
    assert (checks.gradient(call, student)[1:3] == 0).all()
    student[3, [0, 3, 4]] = -inf  # background and new: nothing is left for class 0
    values, grad = call(student), checks.gradient(call, student)
    assert values[3] == inf and values[:3].isfinite().all() and grad.isfinite().all()
    teacher[3, 0] = -inf
    assert call(student)[3].isfinite()
    empty = torch.zeros(0, 5, device=place, requires_grad=True)
    for reduction in ("mean", "sum", "batchmean"):
        loss = KF.unbiased_kl_div(empty, empty.detach()[:, :3], num_new=2, reduction=reduction)
        checks.is_attached_zero(loss, empty)


def test_works_with_pytorch(place):
    teacher = TEACHER.to(place)
    for reduction in ("none", "mean"):
        checks.works_with_pytorch(
            lambda s, r=reduction: KF.unbiased_kl_div(s, teacher, num_new=2, reduction=r), STUDENT.to(place)
        )


def test_bad_input():
    checks.refuses(
        [
            (
                lambda: KF.unbiased_kl_div(STUDENT, TEACHER, num_new=1),
                ValueError,
                "with num_new=1 more classes",
            ),
            (
                lambda: KF.unbiased_kl_div(STUDENT, TEACHER, num_new=-1),
                ValueError,
                "num_new must be at least 0",
            ),
            (lambda: KF.unbiased_kl_div(STUDENT, TEACHER, num_new=2.0), TypeError, "num_new must be an int"),
            (lambda: KF.unbiased_kl_div(STUDENT, TEACHER[:2], num_new=2), ValueError, "teacher's shape"),
        ]
    )


def test_module():
    module = kdfast.nn.UnbiasedKLDivLoss(num_new=2)
    assert torch.equal(module(STUDENT, TEACHER), KF.unbiased_kl_div(STUDENT, TEACHER, num_new=2))
    with pytest.raises(TypeError, match="needs the option 'num_new'"):
        kdfast.nn.UnbiasedKLDivLoss()
