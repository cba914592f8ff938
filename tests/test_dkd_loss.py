"""dkd_loss: its vectors, the published form, confident students, two classes, classes that cannot occur."""

import loss_checks as checks
import pytest
import torch
import torch.nn.functional as F
from check import Case, check_op, logits
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.dkd_loss import dkd_loss_reference

OP = "dkd_loss"
STUDENT, TEACHER, TARGET = wave((4, 5), 2.0, 0.0), wave((4, 5), 3.0, 0.5), torch.arange(4)


def cases(dtype):
    for rows, classes in ((0, 5), (1, 1), (3, 2), (3, 3), (2, 10), (3, 81), (1, 257), (3, 1000)):
        student, teacher = logits((rows, classes), dtype, seed=classes)
        target = (3 * torch.arange(rows) + classes - 1) % classes
        yield Case(f"{rows}x{classes}", (student,), (teacher, target))
    for kind in ("peaky", "near"):
        student, teacher = logits((5, 300), dtype, kind)
        yield Case(kind, (student,), (teacher, torch.tensor([0, 7, 299, 1, 0])), {"alpha": 0.5, "beta": 2.0})
    student, teacher = logits((6, 70), dtype)
    target = torch.arange(6)
    yield Case("sliced", (student[::2, 1::3],), (teacher[1::2, 0:69:3], target[::2]), {"temperature": 1.0})
    yield Case("transposed", (student.t(),), (teacher.t(), torch.arange(70) % 6))
    yield Case("deep", (student.reshape(2, 3, 70),), (teacher.reshape(2, 3, 70), target.reshape(2, 3)))
    yield Case("one row", (student[0],), (teacher[0], target[1]))


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    for reduction in ("batchmean", "none", "mean", "sum"):
        call = lambda *a, r=reduction, **k: KF.dkd_loss(*a, **k, reduction=r)  # noqa: E731
        plain = lambda *a, r=reduction, **k: dkd_loss_reference(*a, **k, reduction=r)  # noqa: E731
        check_op(call, plain, cases(dtype), place)


@pytest.mark.parametrize(
    ("options", "value", "size"),
    [
        ({}, 3.382368919, 6.802244433),
        ({"temperature": 1.0}, 1.056633857, 2.75774808),
        ({"beta": 0.0}, 0.2475667291, 0.6107290643),
        ({"alpha": 0.0, "beta": 1.0}, 0.3918502737, 0.8170002851),
        ({"beta": 0.0, "temperature": 1.0}, 0.1395747424, 0.4506920053),
        ({"alpha": 0.0, "beta": 1.0, "temperature": 1.0}, 0.1146323894, 0.3308667311),
    ],
)
def test_vectors(place, options, value, size):
    teacher, target = TEACHER.to(place), TARGET.to(place)
    checks.has_value(lambda s: KF.dkd_loss(s, teacher, target, **options), STUDENT.to(place), value, size)


def test_two_classes_have_no_rest(place):
    student, teacher = wave((3, 2), 2.0, 0.0).to(place), wave((3, 2), 3.0, 0.5).to(place)
    target = torch.tensor([0, 1, 0], device=place)
    checks.has_value(lambda s: KF.dkd_loss(s, teacher, target), student, 0.1490453769, 0.4525142212)


def test_confident_student_is_finite(place):
    student, teacher = torch.zeros(1, 10, device=place), wave((1, 10), 1.0, 0.0).float().to(place)
    student[0, 3] = 120
    target = torch.tensor([3], device=place)
    for alpha, beta, expected in ((1.0, 0.0, 113.7855115), (0.0, 1.0, 0.1540125984)):
        loss = KF.dkd_loss(student, teacher, target, alpha=alpha, beta=beta, temperature=1.0)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_published_form(place):
    """The authors' masks and sums of probabilities, where they are exact enough."""
    student, teacher, target = (x.to(place) for x in (STUDENT, TEACHER, TARGET))
    hot = F.one_hot(target, 5).bool()
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    pair = lambda x: torch.stack((x[hot], x[~hot].reshape(4, 4).sum(1)), 1)  # noqa: E731
    tckd = F.kl_div(pair(q).log(), pair(p), reduction="sum") * 16 / 4
    rest = [(x / 4 - 1000 * hot).log_softmax(1) for x in (student, teacher)]
    nckd = F.kl_div(rest[0], rest[1].exp(), reduction="sum") * 16 / 4
    torch.testing.assert_close(KF.dkd_loss(student, teacher, target), tckd + 8 * nckd)


def test_accurate_near_convergence(place, need):
    need.that(
        kdfast.backend.of(torch.empty(0, device=place)) != "reference", "plain log_softmax loses these digits"
    )
    target = torch.tensor([0, 5, 299, 17], device=place)
    for distance in (1.0, 1e-2, 1e-4):
        student, teacher = logits((4, 300), torch.float64)
        student, teacher = (teacher + distance * student).float().to(place), teacher.float().to(place)
        found = checks.gradient(lambda s: KF.dkd_loss(s, teacher, target), student)  # noqa: B023
        wide = student.double()
        truth = checks.gradient(lambda s: KF.dkd_loss(s, teacher.double(), target), wide)  # noqa: B023
        assert (found - truth).norm() <= 1e-5 * truth.norm(), distance
        assert KF.dkd_loss(student, teacher, target) >= 0


def test_rows_and_classes_that_cannot_occur(place):
    inf = float("inf")
    student, teacher = wave((5, 6), 2, 0.1).to(place), wave((5, 6), 2, 0.9).to(place)
    target = torch.tensor([2, 0, 1, 3, 4], device=place)
    expected = KF.dkd_loss(student[:1], teacher[:1], target[:1], reduction="mean")
    student[1], teacher[2] = -inf, -inf
    call = lambda s: KF.dkd_loss(s, teacher, target, reduction="none")  # noqa: E731
    values, grad = call(student), checks.gradient(call, student)
    assert (values[1:3] == 0).all() and (grad[1:3] == 0).all() and (grad[3] != 0).all()
    mean = KF.dkd_loss(student[:3], teacher[:3], target[:3], reduction="mean")
    torch.testing.assert_close(mean, expected)
    # A class impossible on both sides does not exist; one that only the student excludes makes the row +inf.
    student[3, 0] = teacher[3, 0] = student[4, 0] = -inf
    values, grad = call(student), checks.gradient(call, student)
    without = KF.dkd_loss(student[3:4, 1:], teacher[3:4, 1:], target[3:4] - 1, reduction="none")
    torch.testing.assert_close(values[3:4], without)
    assert values[4] == inf and grad.isfinite().all() and grad[4, 0] < 0
    # Only the target is possible for the student: finite gradient, infinite value.
    student[0, [0, 1, 3, 4, 5]] = -inf
    assert call(student)[0] == inf and checks.gradient(call, student).isfinite().all()
    empty = torch.zeros(0, 6, device=place, requires_grad=True)
    for reduction in ("mean", "sum", "batchmean"):
        checks.is_attached_zero(KF.dkd_loss(empty, empty.detach(), target[:0], reduction=reduction), empty)


def test_index_out_of_range(place, need):
    need.that(place == "cpu", "on a GPU contents are never read back")
    for bad in (5, -1, -100):
        with pytest.raises(ValueError, match=r"target must hold class numbers in \[0, 4\], got"):
            KF.dkd_loss(STUDENT, TEACHER, torch.tensor([0, 1, 2, bad]))


def test_works_with_pytorch(place):
    teacher, target = TEACHER.to(place), TARGET.to(place)
    for reduction in ("none", "batchmean"):
        checks.works_with_pytorch(
            lambda s, r=reduction: KF.dkd_loss(s, teacher, target, reduction=r), STUDENT.to(place)
        )


def test_bad_input():
    checks.refuses(
        [
            (lambda: KF.dkd_loss(STUDENT, TEACHER[:, :4], TARGET), ValueError, "5 and 4 classes along dim 1"),
            (
                lambda: KF.dkd_loss(STUDENT, TEACHER, TARGET.double()),
                TypeError,
                "target must hold class numbers",
            ),
            (lambda: KF.dkd_loss(STUDENT, TEACHER, TARGET[:2]), ValueError, r"target must have shape \(4,\)"),
            (lambda: KF.dkd_loss(STUDENT, TEACHER, TARGET, beta=float("inf")), ValueError, "beta must be a"),
            (lambda: KF.dkd_loss(STUDENT, TEACHER, TARGET, alpha="1"), TypeError, "alpha must be a number"),
            (
                lambda: KF.dkd_loss(STUDENT, TEACHER, TARGET, reduction="avg"),
                ValueError,
                "reduction must be one of",
            ),
        ]
    )


def test_module():
    module = kdfast.nn.DKDLoss(beta=2.0)
    assert torch.equal(module(STUDENT, TEACHER, TARGET), KF.dkd_loss(STUDENT, TEACHER, TARGET, beta=2.0))
