"""The CUDA kernels of the losses on rows, on the emulated device, against their definitions in float64."""

import pytest
import torch
from native.row_loss_runs import dist_loss, run

from kdfast.ops.cross_entropy_kl_div import cross_entropy_kl_div_reference
from kdfast.ops.dist_loss import dist_loss_reference
from kdfast.ops.dkd_loss import dkd_loss_reference
from kdfast.ops.focal_loss import focal_loss_reference
from kdfast.ops.soft_cross_entropy import soft_cross_entropy_reference
from kdfast.ops.topk_kl_div import topk_kl_div_reference
from kdfast.ops.unbiased_cross_entropy import unbiased_cross_entropy_reference
from kdfast.ops.unbiased_kl_div import unbiased_kl_div_reference

COLUMNS = (2, 7, 33, 257, 1100)
INF = float("inf")


def cases(classes, dtype):
    """name, the kernel's inputs and options, and the definition of the same."""
    generator = torch.Generator().manual_seed(classes)
    new = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    student, teacher, rows = 2 * new(5, classes), 2 * new(5, classes), 5
    if classes > 7:
        student[1, 3] = teacher[1, 3] = student[3, :5] = -INF
    if classes > 2:
        student[2] = -INF
    y = (torch.arange(rows) * 5 + 1) % classes
    y_some, mask = torch.where(torch.arange(rows) == 4, -100, y), torch.tensor([1.0, 0.5, 1, 2, 1])
    mask = mask.double() if dtype == torch.float64 else mask
    weight = torch.linspace(0.5, 1.5, classes).to(mask.dtype)
    wide = dtype == torch.float64
    probs = teacher.double().softmax(-1).to(dtype)
    soft = {"teacher": probs, "temperature": 2.0, "scale": 4.0, "mask": mask}
    yield (
        "soft_cross_entropy",
        student,
        soft,
        lambda s: soft_cross_entropy_reference(
            s, probs.double(), temperature=2.0, mask=mask, reduction="none"
        ),
    )
    hard = {"teacher": teacher, "index": y_some, "class_weight": weight, "temperature": 2.0, "scale": 4.0,
            "param": [0.1], "ignore_index": -100, "outputs": 2}  # fmt: skip
    yield (
        "cross_entropy_kl_div",
        student,
        hard,
        lambda s: cross_entropy_kl_div_reference(
            s, teacher.double(), y_some, weight=weight, temperature=2.0, label_smoothing=0.1, reduction="none"
        ),
    )
    dkd = {"teacher": teacher, "index": y, "temperature": 4.0, "scale": 16.0, "param": [1.0, 8.0]}
    yield "dkd_loss", student, dkd, lambda s: dkd_loss_reference(s, teacher.double(), y, reduction="none")
    for inside in (0.0, 1.0):
        focal = {"index": y_some, "class_weight": weight, "param": [2.0, inside], "ignore_index": -100}
        yield (
            "focal_loss",
            student,
            focal,
            lambda s, i=inside: focal_loss_reference(
                s, y_some, weight=weight, weight_in_pt=bool(i), reduction="none"
            ),
        )
    old = classes // 2
    yield (
        "unbiased_cross_entropy",
        student,
        {"index": y, "param": [float(old)]},
        (lambda s: unbiased_cross_entropy_reference(s, y, num_old=old, reduction="none")),
    )
    known = max(1, classes - 3)
    few = teacher[:, :known].contiguous()
    yield (
        "unbiased_kl_div",
        student,
        {"teacher": few, "param": [float(known)]},
        (lambda s: unbiased_kl_div_reference(s, few.double(), num_new=classes - known, reduction="none")),
    )
    k = max(1, classes // 3)
    top = teacher.double().log_softmax(-1).topk(k, -1)
    log_probs = top.values.to(mask.dtype)
    eps = torch.finfo(mask.dtype).eps * 8
    for renormalize in (0.0, 1.0):
        sparse = {"sparse": log_probs, "index": top.indices.contiguous(), "param": [renormalize, eps, eps]}
        tail = "renormalize" if renormalize else "bucket"
        yield (
            "topk_kl_div",
            student,
            sparse,
            lambda s, t=tail: topk_kl_div_reference(
                s, log_probs.double() if wide else log_probs, top.indices, tail=t, reduction="none"
            ),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", COLUMNS)
def test_agrees_with_the_definition(native, classes, dtype):
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 1e-2}[dtype]
    for name, student, inputs, definition in cases(classes, dtype):
        leaf = student.double().clone().requires_grad_()
        truth = definition(leaf)
        truth = truth if isinstance(truth, tuple) else (truth,)
        values, _, grad = run(native, name, student, **inputs)
        if len(truth) > 1:
            values = run(native, name, student, with_grad=False, **inputs)[0]
        finite = sum(x.sum() for x in truth)
        (expected,) = torch.autograd.grad(finite, leaf)
        value_tolerance = min(tolerance, 2e-5)
        for ours, theirs in zip(values, truth, strict=True):
            torch.testing.assert_close(
                ours.double(), theirs.detach().double(), rtol=value_tolerance, atol=value_tolerance, msg=name
            )
        assert grad.isfinite().all(), name
        error = (grad.double() - expected).norm()
        assert error <= tolerance * expected.norm() + 1e-12, f"{name}: {error}"
        upstream = [torch.linspace(0.5, 2, 5).to(values[0].dtype)] * len(values)
        _, _, again = run(native, name, student, upstream=upstream, **inputs)
        torch.testing.assert_close(again.double(), grad.double() * upstream[0][:, None], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("order", ["reversed", "shuffled"])
def test_any_order_of_threads(native, order):
    for name, student, inputs, _ in cases(257, torch.float32):
        native.set_device()
        first = run(native, name, student, **inputs)
        native.set_device(order=order, seed=1)
        second = run(native, name, student, **inputs)
        assert torch.equal(first[2], second[2]) and torch.equal(first[0][0], second[0][0]), name


@pytest.mark.parametrize("order, seed", [("in_order", 0), ("shuffled", 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dist_loss(native, dtype, order, seed):
    native.set_device(order=order, seed=seed)
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 5e-3}[dtype]
    generator = torch.Generator().manual_seed(0)
    for rows, classes in ((1, 5), (3, 2), (9, 33), (6, 1100)):
        base = 2 * torch.randn(2, rows, 2 * classes, generator=generator, dtype=torch.float64).to(dtype)
        if rows > 3:
            base[0, 2], base[1, 4], base[0, 5, ::4] = -INF, -INF, -INF
        for student, teacher in (base.contiguous()[:, :, :classes], base[..., ::2]):
            leaf = student.double().clone().requires_grad_()
            expected = dist_loss_reference(leaf, teacher.double(), temperature=2.0, beta=0.5, gamma=2.0)
            (slope,) = torch.autograd.grad(1.5 * expected, leaf)
            options = {"temperature": 2.0, "beta": 0.5, "gamma": 2.0, "upstream": 1.5}
            value, grad = dist_loss(native, student, teacher, **options)
            torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=1e-6)
            assert (
                grad.isfinite().all() and (grad.double() - slope).norm() <= tolerance * slope.norm() + 1e-12
            )
