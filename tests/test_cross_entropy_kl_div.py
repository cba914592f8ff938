"""cross_entropy_kl_div: F.cross_entropy in every option, kl_div, what leaves both, PyTorch's transforms, bad
input.
"""

import itertools

import loss_checks as checks
import pytest
import torch
import torch.nn.functional as F
import vectors
from check import Case, check_op, interpreted, logit_cases
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.cross_entropy_kl_div import cross_entropy_kl_div_reference

OP = "cross_entropy_kl_div"
INTERPRETED = interpreted()
REDUCTIONS = ("mean",) if INTERPRETED else ("mean", "none", "sum")
HARD = {
    "V1": (21.31362921, 7.832045325),
    "V2": (15.02894958, 3.997439588),
    "V3": (16.04854697, 5.962006968),
    "V4": (16.69151757, 5.970237362),
    "V5": (15.20254924, 5.955892647),
}


def targets(case: Case) -> torch.Tensor:
    """Class numbers for the rows of a case, some of them ignored."""
    student, dim = case.inputs[0], case.keywords.get("dim", -1)
    dims = [d % student.dim() for d in (dim if isinstance(dim, tuple) else (dim,))]
    classes, shape = 1, []
    for d, n in enumerate(student.shape):
        if d in dims:
            classes *= n
        else:
            shape.append(n)
    rows = torch.arange(int(torch.tensor(shape).prod()) if shape else 1)
    target = (7 * rows + 3) % classes
    return torch.where(rows % 5 == 4, -100, target).reshape(shape)


@pytest.mark.parametrize("dtype", checks.DTYPES[1:3] if INTERPRETED else checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    def cases():
        for case in logit_cases(dtype):
            yield Case(
                case.name, case.inputs, (*case.constants, targets(case)), {"temperature": 2.0} | case.keywords
            )

    every = {"reduction": "batchmean", "label_smoothing": 0.1}, {}, {"reduction": "none"}
    for options in every[:1] if INTERPRETED else every:
        call = lambda *a, o=options, **k: KF.cross_entropy_kl_div(*a, **k | o)  # noqa: E731
        plain = lambda *a, o=options, **k: cross_entropy_kl_div_reference(*a, **k | o)  # noqa: E731
        assert check_op(call, plain, cases(), place) > 15


def test_vectors(place):
    for name, (value, size) in HARD.items():
        student, teacher = (x.to(place) for x in vectors.inputs(name))
        target = 3 * torch.arange(len(student), device=place) + 2
        call = lambda s, t=teacher, y=target: KF.cross_entropy_kl_div(  # noqa: E731
            s, t, y, temperature=4.0, reduction="sum"
        )[0]
        checks.has_value(call, student, value, size)


def test_kl_vectors(place, need):
    need.that(
        kdfast.backend.of(torch.empty(0, device=place)) != "reference", "plain log_softmax loses these digits"
    )
    for name, rows in vectors.EXPECTED["kl_div"].items():
        student, teacher = (x.to(place) for x in vectors.inputs(name))
        target = torch.zeros(len(student), dtype=torch.long, device=place)
        for temperature, (value, size) in zip(vectors.TEMPERATURES, rows, strict=True):
            call = lambda s, t=teacher, y=target, T=temperature: KF.cross_entropy_kl_div(  # noqa: E731
                s, t, y, temperature=T, scale_t2=False, reduction="sum"
            )[1]
            checks.has_value(call, student, value, size)


@pytest.mark.parametrize("dtype", [torch.float32] if INTERPRETED else [torch.float64, torch.float32], ids=str)
def test_ce_equals_torch_in_every_option(place, dtype):
    student, teacher = (wave((6, 5, 2, 3), 2, phase).to(dtype).to(place) for phase in (0.1, 0.9))
    weight = torch.tensor([0.5, 1.5, 0.0, 2.0, 1.0], device=place)
    target = torch.arange(36, device=place).reshape(6, 2, 3) % 5
    for index, smoothing, w, reduction in itertools.product(
        (-100, 3), (0.0, 0.1, 1.0), (None, weight), REDUCTIONS
    ):
        y = target.clone()
        y[0] = -100 if index == -100 else 3
        theirs = F.cross_entropy(
            student, y, weight=None if w is None else w.to(dtype), ignore_index=index,
            label_smoothing=smoothing, reduction=reduction,
        )  # fmt: skip
        ours, _ = KF.cross_entropy_kl_div(
            student,
            teacher,
            y,
            dim=1,
            weight=w,
            ignore_index=index,
            label_smoothing=smoothing,
            reduction=reduction,
        )
        torch.testing.assert_close(ours, theirs)


def test_mask_and_weight_enter_the_mean(place):
    student, teacher = (wave((4, 5), 2, phase).to(place) for phase in (0.1, 0.9))
    target = torch.tensor([1, 2, 0, 4], device=place)
    weight = torch.tensor([0.5, 1.5, 2.5, 2.0, 1.0], dtype=torch.float64, device=place)
    mask = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64, device=place)
    ce, kl = KF.cross_entropy_kl_div(student, teacher, target, weight=weight, mask=mask)
    rows = F.cross_entropy(student, target, weight=weight, reduction="none")
    torch.testing.assert_close(ce, (rows * mask).sum() / (mask * weight[target]).sum())
    torch.testing.assert_close(kl, KF.kl_div(student, teacher, mask=mask, reduction="mean"))


def test_what_leaves_both_values(place):
    inf, nan = float("inf"), float("nan")
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        student, teacher = (wave((6, 5), 2, phase).to(dtype).to(place) for phase in (0.1, 0.9))
        target = torch.tensor([1, -100, 2, 3, 77, 4], device=place)
        expected = KF.cross_entropy_kl_div(student[:1], teacher[:1], target[:1])
        student[2], teacher[3], student[4] = -inf, -inf, nan
        mask = torch.tensor([True, True, True, True, False, False], device=place)
        student.requires_grad_()
        found = KF.cross_entropy_kl_div(student, teacher, target, mask=mask)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        grad = torch.autograd.grad(checks.total(found), student)[0]
        assert (grad[1:] == 0).all() and (grad[0] != 0).any()
        rows = KF.cross_entropy_kl_div(student, teacher, target, mask=mask, reduction="none")
        assert all((x[1:] == 0).all() for x in rows)
        for reduction in ("mean", "sum", "batchmean"):
            none = KF.cross_entropy_kl_div(
                student, teacher, torch.full_like(target, -100), reduction=reduction
            )
            for loss in none:
                checks.is_attached_zero(loss, student)
            empty = torch.zeros(0, 5, dtype=dtype, device=place, requires_grad=True)
            for loss in KF.cross_entropy_kl_div(empty, empty.detach(), target[:0], reduction=reduction):
                checks.is_attached_zero(loss, empty)


def test_impossible_target_is_infinite_with_a_finite_gradient(place):
    student, teacher = (wave((2, 5), 2, phase).to(place) for phase in (0.1, 0.9))
    student[0, 3] = teacher[0, 3] = -float("inf")
    target = torch.tensor([3, 1], device=place)
    ce, kl = KF.cross_entropy_kl_div(student, teacher, target)
    assert ce == float("inf") and kl.isfinite()
    grad = checks.gradient(lambda s: KF.cross_entropy_kl_div(s, teacher, target)[0], student)
    expected = (student.softmax(-1) - F.one_hot(target, 5)) / 2
    torch.testing.assert_close(grad, expected)


def test_index_out_of_range(place, need):
    need.that(place == "cpu", "on a GPU contents are never read back")
    x = torch.randn(3, 5)
    for bad in (5, -1, -101):
        target = torch.tensor([0, bad, 2])
        with pytest.raises(ValueError, match=r"target must hold class numbers in \[0, 4\]"):
            KF.cross_entropy_kl_div(x, x, target)
        compiled = torch.compile(
            lambda y: KF.cross_entropy_kl_div(x, x, y), fullgraph=True, backend="aot_eager"
        )
        with pytest.raises(ValueError, match="target must hold class numbers"):
            compiled(target)


def test_works_with_pytorch(place):
    student, teacher = (wave((3, 7), 2, phase).to(place) for phase in (0.1, 0.9))
    target = torch.tensor([6, 0, -100], device=place)
    weight = torch.linspace(0.5, 2, 7, device=place)
    for reduction in REDUCTIONS[:2]:
        call = lambda s, r=reduction: KF.cross_entropy_kl_div(  # noqa: E731
            s, teacher, target, temperature=1.7, label_smoothing=0.1, weight=weight, reduction=r
        )
        checks.works_with_pytorch(call, student)


def test_bad_input():
    x, y = torch.randn(3, 5), torch.zeros(3, dtype=torch.long)
    call = KF.cross_entropy_kl_div
    checks.refuses(
        [
            (lambda: call(x, x[:, :4], y), ValueError, "5 and 4 classes along dim 1"),
            (lambda: call(x, x, y.float()), TypeError, "target must hold class numbers"),
            (lambda: call(x, x, y[:2]), ValueError, r"target must have shape \(3,\)"),
            (lambda: call(x, x, [0, 1, 2]), TypeError, "target must be a tensor"),
            (lambda: call(x, x, y, label_smoothing=1.5), ValueError, r"label_smoothing must be in \[0, 1\]"),
            (lambda: call(x, x, y, weight=torch.ones(4)), ValueError, "one number per class"),
            (lambda: call(x, x, y, ignore_index=1.5), TypeError, "ignore_index must be an int"),
            (lambda: call(x, x, y, temperature=0), ValueError, "temperature"),
        ]
    )


def test_module():
    x, t, y = torch.randn(3, 5), torch.randn(3, 5), torch.tensor([0, 1, 4])
    module = kdfast.nn.CrossEntropyKLDivLoss(temperature=2.0, weight=torch.rand(5))
    assert "weight" in module.state_dict()
    assert module(x, t, y) == KF.cross_entropy_kl_div(x, t, y, temperature=2.0, weight=module.weight)
