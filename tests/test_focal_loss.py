"""focal_loss: both forms' vectors, cross entropy at gamma = 0, ends of the range, what is ignored."""

import loss_checks as checks
import pytest
import torch
import torch.nn.functional as F
from check import Case, check_op, logits
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.focal_loss import focal_loss_reference

OP = "focal_loss"
LOGITS, TARGET = wave((8, 3), 2.0, 0.25), torch.arange(8) % 3
WEIGHT = torch.tensor([0.6, 1.1, 1.9], dtype=torch.float64)


def cases(dtype):
    for rows, classes in ((0, 5), (1, 1), (3, 2), (3, 10), (2, 100), (3, 257), (3, 1000)):
        x, _ = logits((rows, classes), dtype, seed=classes)
        yield Case(f"{rows}x{classes}", (x,), ((3 * torch.arange(rows) + classes - 1) % classes,))
    x, _ = logits((6, 70), dtype, "peaky")
    target = torch.tensor([0, 5, -100, 69, 0, 7])
    weight = torch.linspace(0.5, 2, 70)
    for options in (
        {"gamma": 0.0},
        {"gamma": 0.5},
        {"weight": weight},
        {"weight": weight, "weight_in_pt": True},
    ):
        yield Case(f"peaky {list(options)}", (x,), (target,), options)
    yield Case("sliced", (x[::2, 1::3],), (torch.tensor([1, 0, 22]),))
    yield Case("transposed", (x.t(),), (torch.arange(70) % 6,))
    yield Case("deep", (x.reshape(2, 3, 70),), (target.reshape(2, 3),))


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    for reduction in ("mean", "none", "batchmean", "sum"):
        call = lambda *a, r=reduction, **k: KF.focal_loss(*a, **k, reduction=r)  # noqa: E731
        plain = lambda *a, r=reduction, **k: focal_loss_reference(*a, **k, reduction=r)  # noqa: E731
        check_op(call, plain, cases(dtype), place)


@pytest.mark.parametrize(
    ("options", "value", "size"),
    [
        ({"weight": WEIGHT, "weight_in_pt": True}, 1.18130772, 1.65772946),
        ({"weight": WEIGHT}, 1.057381292, 1.681633904),
        ({}, 0.8933729429, 1.473043131),
        ({"weight_in_pt": True}, 0.8933729429, 1.473043131),
    ],
)
def test_vectors(place, options, value, size):
    options = {k: v.to(place) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    call = lambda x: KF.focal_loss(x, TARGET.to(place), **options)  # noqa: E731
    checks.has_value(call, LOGITS.to(place), value, size)


def test_gamma_0_is_cross_entropy(place):
    x, y, w = LOGITS.to(place), TARGET.to(place), WEIGHT.to(place)
    expected = F.cross_entropy(x, y, weight=w, reduction="none")
    torch.testing.assert_close(KF.focal_loss(x, y, gamma=0.0, weight=w, reduction="none"), expected)
    torch.testing.assert_close(KF.focal_loss(x, y, gamma=0.0, weight=w), expected.mean())


def test_ends_of_the_range(place):
    """A target that is certain, one that is next to impossible, and one that cannot occur."""
    inf = float("inf")
    for gamma in (0.0, 0.5, 1.0, 2.0):
        for inside in (False, True):
            x = torch.tensor([[200.0, 0, 0], [0, 200.0, 0], [-inf, 1.0, 0]], device=place)
            y = torch.zeros(3, dtype=torch.long, device=place)
            call = lambda x, g=gamma, i=inside, y=y: KF.focal_loss(  # noqa: E731
                x, y, gamma=g, weight_in_pt=i, reduction="none"
            )
            value, grad = call(x), checks.gradient(call, x)
            assert value.tolist() == [0.0, 200.0, inf], gamma
            torch.testing.assert_close(grad[1], torch.tensor([-1.0, 1, 0], device=place))
            torch.testing.assert_close(grad[2], torch.tensor([-1.0, 0.7310586, 0.2689414], device=place))
            assert (grad[0] == 0).all()


def test_what_is_not_counted(place):
    x, y = LOGITS.to(place).clone(), TARGET.to(place).clone()
    expected = KF.focal_loss(x[:2], y[:2])
    x[2], y[3:] = -float("inf"), -100
    torch.testing.assert_close(KF.focal_loss(x, y), expected)
    grad = checks.gradient(lambda z: KF.focal_loss(z, y), x)
    assert (grad[2:] == 0).all() and (grad[:2] != 0).all()
    x = LOGITS.to(place).requires_grad_()
    for reduction in ("mean", "sum", "batchmean"):
        checks.is_attached_zero(
            KF.focal_loss(x, torch.full_like(y, 2), ignore_index=2, reduction=reduction), x
        )
        empty = torch.zeros(0, 3, device=place, requires_grad=True)
        checks.is_attached_zero(KF.focal_loss(empty, y[:0], reduction=reduction), empty)


def test_index_out_of_range(place, need):
    need.that(place == "cpu", "on a GPU contents are never read back")
    for bad in (3, -1):
        with pytest.raises(ValueError, match=r"target must hold class numbers in \[0, 2\]"):
            KF.focal_loss(LOGITS, torch.full_like(TARGET, bad))


def test_works_with_pytorch(place):
    x, y, w = LOGITS.to(place), TARGET.to(place), WEIGHT.to(place)
    for reduction in ("none", "mean"):
        for inside in (False, True):
            checks.works_with_pytorch(
                lambda x, r=reduction, i=inside: KF.focal_loss(x, y, weight=w, weight_in_pt=i, reduction=r), x
            )


def test_bad_input():
    checks.refuses(
        [
            (
                lambda: KF.focal_loss(LOGITS, TARGET, gamma=-1),
                ValueError,
                "gamma must be a finite number of at least 0",
            ),
            (lambda: KF.focal_loss(LOGITS, TARGET, weight=WEIGHT[:2]), ValueError, "one number per class"),
            (lambda: KF.focal_loss(LOGITS, TARGET[:2]), ValueError, r"target must have shape \(8,\)"),
            (lambda: KF.focal_loss(LOGITS, LOGITS), TypeError, "target must hold class numbers"),
            (lambda: KF.focal_loss(LOGITS.long(), TARGET), TypeError, "logits must be float64"),
        ]
    )


def test_module():
    module = kdfast.nn.FocalLoss(gamma=1.0, weight=WEIGHT)
    assert torch.equal(module(LOGITS, TARGET), KF.focal_loss(LOGITS, TARGET, gamma=1.0, weight=WEIGHT))
