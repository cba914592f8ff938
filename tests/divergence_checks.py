"""What every divergence must hold, as functions that its room's test file calls."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import vectors
from check import check_op, logit_cases, logits

from kdfast import backend

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def agrees_with_definition(function: Callable, reference: Callable, device: str, dtype: torch.dtype) -> None:
    """Values and gradients, at every shape, stride and kind of logits, for all reductions."""
    assert check_op(function, reference, logit_cases(dtype), device) > 15
    for reduction in ("none", "sum", "mean"):
        call = lambda *a, reduction=reduction, **k: function(*a, **{"reduction": reduction} | k)  # noqa: E731
        plain = lambda *a, reduction=reduction, **k: reference(*a, **{"reduction": reduction} | k)  # noqa: E731
        cases = [
            case for case in logit_cases(dtype) if case.name in ("3x257", "images", "peaky", "0x8", "mask")
        ]
        check_op(call, plain, iter(cases), device)


def matches_vectors(function: Callable, name: str, device: str, **options) -> None:
    """Forty-digit values and gradients to a relative 1e-9, in float64."""
    if backend.of(torch.empty(0, device=device)) == "reference":
        return  # plain log_softmax loses these digits: that is what the kernels are for
    for vector, rows in vectors.EXPECTED[name].items():
        for temperature, (value, size) in zip(vectors.TEMPERATURES, rows, strict=True):
            student, teacher = (x.to(device) for x in vectors.inputs(vector))
            student.requires_grad_()
            ours = function(
                student, teacher, temperature=temperature, scale_t2=False, reduction="sum", **options
            )
            ours.backward()
            where = f"{vector} at T={temperature}"
            assert math.isclose(ours.item(), value, rel_tol=1e-9), f"{where}: {ours.item()}, not {value}"
            found = student.grad.abs().sum().item()
            assert math.isclose(found, size, rel_tol=1e-9, abs_tol=1e-300), (
                f"{where}: sum |g| {found}, not {size}"
            )


def accurate_near_convergence(function: Callable, reference: Callable, device: str) -> None:
    """float32 gradients to 1e-5 and values to 1e-4, never negative, however near the student has come."""
    if backend.of(torch.empty(0, device=device)) == "reference":
        return
    for distance in (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        generator = torch.Generator().manual_seed(1)
        teacher = torch.randn(4, 3000, generator=generator)
        student = (
            (teacher + distance * torch.randn(4, 3000, generator=generator) + 3).to(device).requires_grad_()
        )
        wide = student.detach().double().requires_grad_()
        with backend.use("auto"):
            truth = function(wide, teacher.to(device).double(), reduction="sum")
        truth.backward()
        ours = function(student, teacher.to(device), reduction="sum")
        ours.backward()
        assert ours >= 0
        assert abs(ours.item() - truth.item()) <= 1e-4 * truth.item(), (distance, ours.item(), truth.item())
        error = (student.grad.double() - wide.grad).norm() / wide.grad.norm()
        assert error <= 1e-5, (distance, error.item())


def survives_any_range(function: Callable, reference: Callable, device: str) -> None:
    """Logits hundreds apart, offsets, masks of -1e9: what the definition gives in float64."""
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(8, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    for change in (
        lambda x: 30 * x,
        lambda x: 300 * x,
        lambda x: x - 500,
        lambda x: x.clone().index_fill_(1, _first, -1e9),
    ):
        pair = [change(x).float() for x in (student, teacher)]
        ours = function(*(x.to(device) for x in pair), reduction="none").cpu()
        truth = reference(*(x.double() for x in pair), reduction="none")
        torch.testing.assert_close(ours.double(), truth, rtol=2e-5, atol=1e-6)


_first = torch.tensor([0, 7])


def accurate_in_bfloat16(function: Callable, device: str) -> None:
    """Gradients within 0.2 % of float64 on the same rounded logits, at any distance."""
    if backend.of(torch.empty(0, device=device)) == "reference":
        return
    for distance in (1.0, 0.1, 0.03):
        student, teacher = logits((8, 1000), torch.float32)
        student = (teacher + distance * student).bfloat16().to(device).requires_grad_()
        teacher = teacher.bfloat16().to(device)
        function(student, teacher).backward()
        wide = student.detach().double().requires_grad_()
        function(wide, teacher.double()).backward()
        assert (student.grad.double() - wide.grad).norm() <= 2e-3 * wide.grad.norm(), distance


def handles_rows_that_do_not_count(function: Callable, device: str) -> None:
    """Empty batches, dropped rows and impossible rows: 0, attached to the graph, never NaN."""
    nan, inf = float("nan"), float("inf")
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for reduction in ("mean", "sum", "batchmean"):
            empty = torch.empty(0, 5, dtype=dtype, device=device, requires_grad=True)
            loss = function(empty, empty.detach(), reduction=reduction)
            loss.backward()
            assert loss == 0 and empty.grad.shape == (0, 5)
        student = torch.randn(4, 9, dtype=dtype, device=device)
        teacher = torch.randn(4, 9, dtype=dtype, device=device)
        expected = function(student[:1], teacher[:1], reduction="mean")
        student[1], student[2, 3], teacher[3] = -inf, nan, -inf
        student.requires_grad_()
        mask = torch.tensor([True, True, False, True], device=device)
        loss = function(student, teacher, mask=mask, reduction="mean")
        loss.backward()
        torch.testing.assert_close(loss, expected)
        assert (student.grad[1:] == 0).all() and (student.grad[0] != 0).any()
        rows = function(student, teacher, mask=mask, reduction="none")
        assert (rows[1:] == 0).all()
        none = function(student, teacher, mask=torch.zeros_like(mask), reduction="mean")
        none.backward()
        assert none == 0
        whole = function(student, teacher, reduction="sum")
        assert whole.isnan()  # a NaN in a counted row is seen


def works_with_pytorch(function: Callable, device: str) -> None:
    """gradcheck, torch.compile, torch.func, retained graphs, no grad, second derivatives, vmap."""
    student, teacher = (x.to(device) for x in logits((3, 11), torch.float64))
    student.requires_grad_()
    for reduction in ("none", "mean"):
        call = lambda s, reduction=reduction: function(s, teacher, temperature=1.7, reduction=reduction)  # noqa: E731
        assert torch.autograd.gradcheck(call, (student,))
    plain = torch.autograd.grad(call(student), student)[0]
    loss = 2 * call(student)
    first = torch.autograd.grad(loss, student, retain_graph=True)[0]
    second = torch.autograd.grad(loss, student)[0]
    assert torch.equal(first, second)
    torch.testing.assert_close(first, 2 * plain)
    torch.testing.assert_close(torch.func.grad(call)(student.detach()), plain)
    gradient = torch.func.grad(lambda s, t: function(s, t))
    rows = zip(student.detach(), teacher, strict=True)
    each = torch.func.vmap(gradient)(student.detach(), teacher)
    torch.testing.assert_close(each, torch.stack([gradient(*row) for row in rows]))
    with torch.no_grad():
        assert not call(student).requires_grad
    if backend.of(student) != "reference":
        (once,) = torch.autograd.grad(call(student), student, create_graph=True)
        with pytest.raises(RuntimeError, match="first derivatives only"):
            once.sum().backward()
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(student), student)[0], plain)


def passes_opcheck(op: torch._ops.OpOverloadPacket, device: str, param: float) -> None:
    """torch.library.opcheck on the raw op and its backward."""
    student, teacher = (x.to(device) for x in logits((3, 11), torch.float32))
    backward = getattr(torch.ops.kdfast, op.__name__ + "_backward")
    for reduction, with_grad in ((0, False), (1, True)):
        arguments = (student, teacher, None, [1], 2.0, 4.0, param, reduction, with_grad)
        torch.library.opcheck(op, arguments)
    value, _, state, norm = op(student, teacher, None, [1], 2.0, 4.0, param, 0, False)
    torch.library.opcheck(backward, (value, norm, student, teacher, None, state, [1], 2.0, 4.0, param))


def refuses_bad_input(function: Callable) -> None:
    """One sentence that names the argument, before anything runs."""
    x, y = torch.randn(3, 5), torch.randn(3, 5)
    for call, error, words in (
        (lambda: function([1.0], y), TypeError, "student must be a tensor, got list"),
        (lambda: function(x.long(), y), TypeError, "student must be float64"),
        (lambda: function(x, y.int()), TypeError, "teacher must be float64"),
        (lambda: function(x, y[:, :4]), ValueError, "5 and 4 classes along dim 1"),
        (lambda: function(x, y[:2]), ValueError, r"same shape, got \(3, 5\) and \(2, 5\)"),
        (lambda: function(x[:, :0], y[:, :0]), ValueError, "at least one class"),
        (lambda: function(x[0, 0], y[0, 0]), ValueError, "class dimension"),
        (lambda: function(x, y, temperature=0), ValueError, "temperature must be a finite number above 0"),
        (lambda: function(x, y, temperature=math.nan), ValueError, "temperature"),
        (lambda: function(x, y, temperature="4"), TypeError, "temperature must be a number"),
        (lambda: function(x, y, scale_t2=2), TypeError, "scale_t2 must be True or False"),
        (lambda: function(x, y, reduction="average"), ValueError, "reduction must be one of none, mean"),
        (lambda: function(x, y, dim=2), ValueError, r"dim must be in \[-2, 1\]"),
        (lambda: function(x, y, dim=(0, -2)), ValueError, "twice"),
        (
            lambda: function(x, y, mask=torch.ones(4)),
            ValueError,
            r"mask must have one value per row, shape \(3,\)",
        ),
        (
            lambda: function(x, y, mask=torch.ones(3, dtype=torch.long)),
            TypeError,
            "mask must be bool or float",
        ),
        (lambda: function(x, y.to("meta")), RuntimeError, "student is on cpu and teacher on meta"),
    ):
        with pytest.raises(error, match=words):
            call()
