"""soft_cross_entropy: its definition, the vectors, unnormalised probabilities, classes that cannot occur."""

import loss_checks as checks
import pytest
import torch
import vectors
from check import Case, check_op, logit_cases
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.soft_cross_entropy import soft_cross_entropy_reference

OP = "soft_cross_entropy"
VECTORS = {
    "V1": ((13.04118534, 3.291383341), (13.43498604, 1.391531298), (14.15601882, 0.2934174123)),
    "V2": (
        (12.17748759, 6.148631278e-4),
        (12.88279725, 2.897973504e-4),
        (13.61051293, 7.157745094e-5),
    ),
    "V3": ((6.799738367, 2.613819288), (7.084353214, 1.063969393), (7.630047103, 0.2159454371)),
    "V4": ((7.621640887, 2.788606861), (7.805486830, 1.230467009), (8.277413201, 0.3158967455)),
    "V5": ((vectors.INF, 3.030233428), (vectors.INF, 1.463074415), (vectors.INF, 0.4110005115)),
}


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    def cases():
        for case in logit_cases(dtype):
            dim = case.keywords.get("dim", -1)
            teacher = case.constants[0].float().softmax(dim if isinstance(dim, int) else dim[0]).to(dtype)
            yield Case(case.name, case.inputs, (teacher,), case.keywords)

    for reduction in ("batchmean", "none", "mean", "sum"):
        r = {"reduction": reduction}
        call = lambda *a, r=r, **k: KF.soft_cross_entropy(*a, **k | r)  # noqa: E731
        plain = lambda *a, r=r, **k: soft_cross_entropy_reference(*a, **k | r)  # noqa: E731
        check_op(call, plain, cases(), place)


def test_vectors(place):
    for name, rows in VECTORS.items():
        student, teacher = (x.to(place) for x in vectors.inputs(name))
        for temperature, (value, size) in zip(vectors.TEMPERATURES, rows, strict=True):
            probs = (teacher / temperature).softmax(-1)
            call = lambda s, p=probs, t=temperature: KF.soft_cross_entropy(  # noqa: E731
                s, p, temperature=t, scale_t2=False, reduction="sum"
            )
            checks.has_value(call, student, value, size, rel=1e-8 if name == "V2" else 1e-9)


def test_gradient_of_probabilities_that_do_not_sum_to_one(place):
    student, probs = wave((3, 7), 2, 0.1).to(place), wave((3, 7), 1, 0.5).abs().to(place)
    grad = checks.gradient(lambda s: KF.soft_cross_entropy(s, probs, reduction="sum"), student)
    expected = student.softmax(-1) * probs.sum(-1, keepdim=True) - probs
    torch.testing.assert_close(grad, expected)


def test_equals_torch_where_torch_has_it(place):
    student, probs = wave((3, 7), 2, 0.1).to(place), wave((3, 7), 1, 0.5).softmax(-1).to(place)
    torch.testing.assert_close(
        KF.soft_cross_entropy(student, probs), torch.nn.functional.cross_entropy(student, probs)
    )


def test_rows_that_do_not_count(place):
    inf, nan = float("inf"), float("nan")
    student, probs = wave((4, 5), 2, 0.1).to(place), wave((4, 5), 1, 0.5).softmax(-1).to(place)
    expected = KF.soft_cross_entropy(student[:1], probs[:1], reduction="mean")
    student[1], student[2, 3], probs[3] = -inf, nan, nan
    mask = torch.tensor([True, True, False, False], device=place)
    student.requires_grad_()
    loss = KF.soft_cross_entropy(student, probs, mask=mask, reduction="mean")
    torch.testing.assert_close(loss, expected)
    assert (torch.autograd.grad(loss, student)[0][1:] == 0).all()
    empty = torch.zeros(0, 5, device=place, requires_grad=True)
    for reduction in ("mean", "sum", "batchmean"):
        loss = KF.soft_cross_entropy(student, probs, mask=torch.zeros_like(mask), reduction=reduction)
        checks.is_attached_zero(loss, student)
        checks.is_attached_zero(KF.soft_cross_entropy(empty, empty.detach(), reduction=reduction), empty)


def test_works_with_pytorch(place):
    probs = wave((3, 7), 1, 0.5).abs().to(place)
    for reduction in ("none", "batchmean"):
        call = lambda s, r=reduction: KF.soft_cross_entropy(s, probs, temperature=1.7, reduction=r)  # noqa: E731
        checks.works_with_pytorch(call, wave((3, 7), 2, 0.1).to(place))


def test_bad_input():
    x = torch.randn(3, 5)
    checks.refuses(
        [
            (
                lambda: KF.soft_cross_entropy(x, x[:, :4]),
                ValueError,
                "student and teacher_probs have 5 and 4 classes",
            ),
            (lambda: KF.soft_cross_entropy(x, x.long()), TypeError, "teacher_probs must be float64"),
            (lambda: KF.soft_cross_entropy(x, x, temperature=-1), ValueError, "temperature"),
            (lambda: KF.soft_cross_entropy(x, x, mask=torch.ones(5)), ValueError, "one value per row"),
            (lambda: KF.soft_cross_entropy(x, x, scale_t2=1), TypeError, "scale_t2 must be True or False"),
        ]
    )


def test_module():
    x, p = torch.randn(3, 5), torch.rand(3, 5)
    module = kdfast.nn.SoftCrossEntropyLoss(temperature=2.0)
    assert torch.equal(module(x, p), KF.soft_cross_entropy(x, p, temperature=2.0))
