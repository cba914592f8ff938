"""unbiased_cross_entropy: its vector, cross entropy without old classes, labels of old classes, what is not
counted.
"""

import loss_checks as checks
import pytest
import torch
import torch.nn.functional as F
from check import Case, check_op, logits
from waves import wave

import kdfast.functional as KF
from kdfast.ops.unbiased_cross_entropy import unbiased_cross_entropy_reference

OP = "unbiased_cross_entropy"
LOGITS, TARGET = wave((4, 5), 2.0, 0.3), torch.tensor([0, 3, 4, 0])


def cases(dtype):
    for rows, classes, old in (
        (0, 5, 2),
        (1, 1, 0),
        (3, 2, 1),
        (3, 21, 15),
        (4, 91, 80),
        (2, 300, 7),
        (3, 1000, 999),
    ):
        x, _ = logits((rows, classes), dtype, seed=classes)
        target = torch.tensor([0, classes - 1, classes // 2, 0])[:rows]
        yield Case(f"{rows}x{classes}", (x,), (target,), {"num_old": old})
    x, _ = logits((6, 70), dtype, "peaky")
    yield Case("sliced", (x[::2, 1::3],), (torch.tensor([0, 20, 5]),), {"num_old": 5})
    yield Case("transposed", (x.t(),), (torch.arange(70) % 6,), {"num_old": 3})
    yield Case("deep", (x.reshape(2, 3, 70),), (torch.arange(6).reshape(2, 3),), {"num_old": 2})


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    for reduction in ("mean", "none", "batchmean", "sum"):
        call = lambda *a, r=reduction, **k: KF.unbiased_cross_entropy(*a, **k, reduction=r)  # noqa: E731
        plain = lambda *a, r=reduction, **k: unbiased_cross_entropy_reference(*a, **k, reduction=r)  # noqa: E731
        check_op(call, plain, cases(dtype), place)


def test_vector(place):
    x, target = LOGITS.to(place), TARGET.to(place)
    call = lambda s: KF.unbiased_cross_entropy(s, target, num_old=2)  # noqa: E731
    checks.has_value(call, x, 1.70567739829, 1.35053814304)
    first = torch.tensor(
        [-0.004020210979, -0.002600304198, -0.000426871019], dtype=torch.float64, device=place
    )
    torch.testing.assert_close(checks.gradient(call, x)[0, :3], first, rtol=1e-9, atol=0)


def test_without_old_classes_it_is_cross_entropy(place):
    x, target = LOGITS.to(place), TARGET.to(place)
    torch.testing.assert_close(KF.unbiased_cross_entropy(x, target, num_old=0), F.cross_entropy(x, target))


def test_old_labels_count_as_zero(place):
    x, target = LOGITS.to(place), torch.tensor([0, 1, 2, 3], device=place)
    call = lambda s: KF.unbiased_cross_entropy(s, target, num_old=2, reduction="none")  # noqa: E731
    values, grad = call(x), checks.gradient(call, x)
    assert (values[1:3] == 0).all() and (grad[1:3] == 0).all() and (values[[0, 3]] > 0).all()
    torch.testing.assert_close(KF.unbiased_cross_entropy(x, target, num_old=2), values.mean())


def test_rows_and_classes_that_cannot_occur(place):
    inf = float("inf")
    x, target = LOGITS.to(place).clone(), TARGET.to(place)
    x[0], x[1, 3], x[3, :3] = -inf, -inf, -inf
    call = lambda s: KF.unbiased_cross_entropy(s, target, num_old=2, reduction="none")  # noqa: E731
    values, grad = call(x), checks.gradient(call, x)
    assert values[0] == 0 and values[1] == inf and values[3] == inf and values[2].isfinite()
    assert grad.isfinite().all() and (grad[0] == 0).all()
    mean = KF.unbiased_cross_entropy(x[[0, 2]], target[[0, 2]], num_old=2)
    torch.testing.assert_close(mean, values[2])
    empty = torch.zeros(0, 5, device=place, requires_grad=True)
    for reduction in ("mean", "sum", "batchmean"):
        loss = KF.unbiased_cross_entropy(empty, target[:0], num_old=2, reduction=reduction)
        checks.is_attached_zero(loss, empty)


def test_index_out_of_range(place, need):
    need.that(place == "cpu", "on a GPU contents are never read back")
    for bad in (5, -1, -100):
        with pytest.raises(ValueError, match=r"target must hold class numbers in \[0, 4\]"):
            KF.unbiased_cross_entropy(LOGITS, torch.tensor([0, 1, 2, bad]), num_old=2)


def test_works_with_pytorch(place):
    target = TARGET.to(place)
    for reduction in ("none", "mean"):
        checks.works_with_pytorch(
            lambda s, r=reduction: KF.unbiased_cross_entropy(s, target, num_old=2, reduction=r),
            LOGITS.to(place),
        )


def test_bad_input():
    call = KF.unbiased_cross_entropy
    checks.refuses(
        [
            (
                lambda: call(LOGITS, TARGET, num_old=5),
                ValueError,
                "num_old must be below the number of classes, 5",
            ),
            (lambda: call(LOGITS, TARGET, num_old=-1), ValueError, "num_old must be at least 0"),
            (lambda: call(LOGITS, TARGET, num_old=True), TypeError, "num_old must be an int"),
            (lambda: call(LOGITS, TARGET[:3], num_old=2), ValueError, r"target must have shape \(4,\)"),
        ]
    )
