"""dist_loss: its vector, correlations against NumPy, rows that do not count, one sample, PyTorch's
transforms.
"""

import loss_checks as checks
import numpy as np
import pytest
import torch
from check import Case, check_op, logits
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.dist_loss import dist_loss_reference

OP = "dist_loss"
STUDENT, TEACHER = wave((4, 5), 2.0, 0.0), wave((4, 5), 3.0, 0.5)


def cases(dtype):
    for rows, classes in ((0, 5), (1, 4), (3, 2), (3, 7), (8, 10), (5, 257), (64, 100), (33, 1000)):
        student, teacher = logits((rows, classes), dtype, seed=classes)
        yield Case(f"{rows}x{classes}", (student,), (teacher,))
    for kind in ("peaky", "near"):
        student, teacher = logits((5, 300), dtype, kind)
        yield Case(kind, (student,), (teacher,), {"temperature": 4.0})
    student, teacher = logits((6, 70), dtype)
    yield Case("sliced", (student[::2, 1::3],), (teacher[1::2, 0:69:3],), {"beta": 0.5})
    yield Case("transposed", (student.t(),), (teacher.t(),), {"gamma": 2.0})
    yield Case("deep", (student.reshape(2, 3, 70),), (teacher.reshape(2, 3, 70),))


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    assert check_op(KF.dist_loss, dist_loss_reference, cases(dtype), place) > 10


def test_vectors(place):
    student, teacher = STUDENT.to(place), TEACHER.to(place)
    checks.has_value(lambda s: KF.dist_loss(s, teacher, temperature=4.0), student, 3.565853941, 9.673855281)
    for options, value in (({"gamma": 0.0}, 1.853396887), ({"beta": 0.0}, 1.712457054)):
        assert KF.dist_loss(student, teacher, temperature=4.0, **options).item() == pytest.approx(
            value, rel=1e-9
        )


def test_correlations_are_numpys(place):
    q, p = STUDENT.softmax(1).numpy(), TEACHER.softmax(1).numpy()
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    ours = KF.dist_loss(STUDENT.to(place), TEACHER.to(place), beta=2.0, gamma=3.0).item()
    assert ours == pytest.approx(2 * (1 - rows) + 3 * (1 - columns), rel=1e-6)


def test_one_sample_has_no_correlation_over_samples(place):
    student = STUDENT[:1].to(place)
    value = KF.dist_loss(student, TEACHER[:1].to(place), beta=0.0, gamma=1.0)
    assert value == 1
    grad = checks.gradient(lambda s: KF.dist_loss(s, TEACHER[:1].to(place)), student)
    assert grad.isfinite().all()


def test_rows_that_do_not_count(place):
    inf = float("inf")
    student, teacher = STUDENT.to(place).clone(), TEACHER.to(place).clone()
    expected = KF.dist_loss(student[:2], teacher[:2])
    student[2], teacher[3] = -inf, -inf
    torch.testing.assert_close(KF.dist_loss(student, teacher), expected)
    grad = checks.gradient(lambda s: KF.dist_loss(s, teacher), student)
    assert (grad[2:] == 0).all() and (grad[:2] != 0).all()
    student = torch.full((2, 5), -inf, device=place, requires_grad=True)
    checks.is_attached_zero(KF.dist_loss(student, teacher[:2]), student)
    empty = torch.zeros(0, 5, device=place, requires_grad=True)
    checks.is_attached_zero(KF.dist_loss(empty, empty.detach()), empty)


def test_works_with_pytorch(place):
    teacher = TEACHER.to(place)
    checks.works_with_pytorch(lambda s: KF.dist_loss(s, teacher, temperature=2.0), STUDENT.to(place))


def test_a_teacher_that_says_the_same_of_every_row(place):
    teacher, student = torch.randn(1, 257).expand(33, 257), torch.randn(33, 257)
    grads = []
    for function, dtype in ((KF.dist_loss, torch.float32), (dist_loss_reference, torch.float64)):
        s = student.detach().to(place, dtype).requires_grad_()
        function(s, teacher.to(place, dtype), temperature=2.0).backward()
        grads.append(s.grad.double())
    assert (grads[0] - grads[1]).norm() < 1e-5 * grads[1].norm()


def test_bad_input():
    checks.refuses(
        [
            (lambda: KF.dist_loss(STUDENT, TEACHER[:, :4]), ValueError, "5 and 4 classes along dim 1"),
            (
                lambda: KF.dist_loss(STUDENT[0], TEACHER[0]),
                ValueError,
                r"student must be \[samples, classes\]",
            ),
            (lambda: KF.dist_loss(STUDENT, TEACHER, gamma=None), TypeError, "gamma must be a number"),
            (lambda: KF.dist_loss(STUDENT, TEACHER, beta=float("nan")), ValueError, "beta must be a finite"),
            (lambda: KF.dist_loss(STUDENT, TEACHER, temperature=0), ValueError, "temperature"),
        ]
    )


def test_module():
    assert torch.equal(
        kdfast.nn.DISTLoss(gamma=2.0)(STUDENT, TEACHER), KF.dist_loss(STUDENT, TEACHER, gamma=2.0)
    )
