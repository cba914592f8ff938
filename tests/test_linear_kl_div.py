"""linear_kl_div: its definition, chunks of any size, memory, which gradients are made, bad input."""

import sys
from pathlib import Path

import loss_checks as checks
import pytest
import torch
from check import Case, check_op
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops._linear import rows_of_chunk
from kdfast.ops.linear_kl_div import linear_kl_div_reference

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from harness import peak_bytes  # noqa: E402


def heads(rows: int, classes: int, dtype: torch.dtype, seed: int = 0) -> list[torch.Tensor]:
    """student_hidden, student_weight, student_bias, teacher_hidden, teacher_weight, teacher_bias."""
    generator = torch.Generator().manual_seed(seed)
    new = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return [
        new(rows, 12), new(classes, 12) / 3, new(classes), new(rows, 20), new(classes, 20) / 4, new(classes)
    ]  # fmt: skip


def by_position(function):
    """The function of (student_hidden, student_weight, student_bias, the teacher's three): three get
    gradients.
    """

    def call(hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias, **options):
        return function(
            hidden,
            weight,
            teacher_hidden,
            teacher_weight,
            student_bias=bias,
            teacher_bias=teacher_bias,
            **options,
        )

    return call


def cases(dtype):
    for rows, classes, options in (
        (0, 9, {}), (1, 1, {}), (3, 257, {}), (7, 40, {"chunk_rows": 2}), (7, 40, {"chunk_rows": 7}),
        (7, 40, {"divergence": "reverse_kl", "chunk_rows": 3}), (7, 40, {"divergence": "js", "beta": 0.2}),
        (300, 11, {"temperature": 2.0}),
        (6, 30, {"mask": torch.tensor([1, 0, 2, 0.5, 1, 0]), "chunk_rows": 4}),
    ):  # fmt: skip
        tensors = heads(rows, classes, dtype, seed=rows)
        yield Case(f"{rows}x{classes} {options}", tuple(tensors[:3]), tuple(tensors[3:]), options)
    tensors = heads(6, 30, dtype)
    tensors[0], tensors[3] = (x.reshape(2, 3, -1) for x in (tensors[0], tensors[3]))
    yield Case("deep", tuple(tensors[:3]), tuple(tensors[3:]), {"chunk_rows": 4})
    tensors = heads(12, 30, dtype)
    tensors[0], tensors[1] = tensors[0][::2], tensors[1].t().contiguous().t()
    tensors[3] = tensors[3][1::2]
    yield Case("strided", tuple(tensors[:3]), tuple(tensors[3:]), {})


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    for reduction in ("batchmean", "none", "mean", "sum"):
        call = lambda *a, r=reduction, **k: by_position(KF.linear_kl_div)(*a, **k, reduction=r)  # noqa: E731
        plain = lambda *a, r=reduction, **k: by_position(linear_kl_div_reference)(*a, **k, reduction=r)  # noqa: E731
        check_op(call, plain, cases(dtype), place)


def test_is_the_divergence_of_the_logits(place):
    h, w, b, th, tw, tb = (x.to(place) for x in heads(9, 40, torch.float64))
    student, teacher = h @ w.t() + b, th @ tw.t() + tb
    for name, function in (("kl", KF.kl_div), ("reverse_kl", KF.reverse_kl_div), ("js", KF.js_div)):
        ours = KF.linear_kl_div(
            h, w, th, tw, student_bias=b, teacher_bias=tb, divergence=name, temperature=2.0, chunk_rows=4
        )
        torch.testing.assert_close(ours, function(student, teacher, temperature=2.0))


def test_chunks_do_not_change_the_result(place):
    tensors = [x.to(place) for x in heads(50, 40, torch.float32)]
    call = lambda rows: by_position(KF.linear_kl_div)(*tensors, chunk_rows=rows, reduction="none")  # noqa: E731
    whole = call(50)
    for rows in (1, 3, 16, 49, 1000):
        torch.testing.assert_close(call(rows), whole)


def test_only_wanted_gradients_are_made(place):
    h, w, b, th, tw, tb = (x.to(place) for x in heads(9, 40, torch.float32))
    full = [x.clone().requires_grad_() for x in (h, w, b)]
    every = torch.autograd.grad(by_position(KF.linear_kl_div)(*full, th, tw, tb), full)
    for i in range(3):
        some = [x.clone().requires_grad_(i == j) for j, x in enumerate((h, w, b))]
        (one,) = torch.autograd.grad(by_position(KF.linear_kl_div)(*some, th, tw, tb), some[i])
        assert torch.equal(one, every[i])
    teacher = [x.clone().requires_grad_() for x in (th, tw, tb)]
    by_position(KF.linear_kl_div)(*full, *teacher).backward()
    assert all(x.grad is None for x in teacher)
    assert not by_position(KF.linear_kl_div)(h, w, b, *teacher).requires_grad


def test_rows_that_do_not_count(place):
    h, w, b, th, tw, tb = (x.to(place) for x in heads(6, 40, torch.float32))
    expected = by_position(KF.linear_kl_div)(h[:2], w, b, th[:2], tw, tb, reduction="mean")
    h[3:] = float("nan")
    mask = torch.tensor([1, 1, 0, 0, 0, 0], device=place).bool()
    leaves = [x.clone().requires_grad_() for x in (h, w, b)]
    loss = by_position(KF.linear_kl_div)(*leaves, th, tw, tb, mask=mask, reduction="mean", chunk_rows=2)
    torch.testing.assert_close(loss, expected)
    nothing = torch.zeros_like(mask)
    for reduction in ("mean", "sum", "batchmean"):
        loss = by_position(KF.linear_kl_div)(h[:0], leaves[1], b, th[:0], tw, tb, reduction=reduction)
        checks.is_attached_zero(loss, leaves[1])
        loss = by_position(KF.linear_kl_div)(
            h[:2], leaves[1], b, th[:2], tw, tb, mask=nothing[:2], reduction=reduction
        )
        checks.is_attached_zero(loss, leaves[1])


def test_logits_are_never_all_in_memory(place, need):
    need.that(kdfast.backend.of(torch.empty(0, device=place)) == "native", "the definition holds all logits")
    need.that(place == "cpu", "the allocator's peak is measured on the CPU here")
    rows, classes = 4096, 2000
    hidden, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(classes, 8, requires_grad=True)
    teacher = torch.randn(rows, 8), torch.randn(classes, 8)
    step = lambda: KF.linear_kl_div(hidden, weight, *teacher).backward()  # noqa: E731
    plain = lambda: KF.kl_div(hidden @ weight.t(), teacher[0] @ teacher[1].t()).backward()  # noqa: E731
    step()
    assert peak_bytes(step) <= peak_bytes(plain) / 4


def test_chunk_rule():
    assert rows_of_chunk(100, 1000, torch.float32) == 100  # one chunk: thin products are slow
    assert rows_of_chunk(2048, 32000, torch.float32) == 256
    assert rows_of_chunk(65536, 1000, torch.float32) == 8192  # eight launches' worth, however many rows
    assert rows_of_chunk(65536, 128256, torch.float32) == 697  # a GiB
    assert rows_of_chunk(0, 10, torch.float32) == 1


def test_works_with_pytorch(place):
    _, w, b, th, tw, tb = (x.to(place) for x in heads(5, 7, torch.float64))
    h = wave((5, 12), 1, 0.2).to(place)
    for reduction in ("none", "batchmean"):
        call = lambda x, r=reduction: KF.linear_kl_div(  # noqa: E731
            x, w, th, tw, student_bias=b, teacher_bias=tb, temperature=1.7, reduction=r, chunk_rows=2
        )
        checks.works_with_pytorch(call, h)
    assert torch.autograd.gradcheck(
        lambda y: KF.linear_kl_div(h, y, th, tw, chunk_rows=2), (w.requires_grad_(),)
    )


def test_second_derivatives_are_refused(place, need):
    need.that(kdfast.backend.of(torch.empty(0, device=place)) != "reference", "the definition has them")
    h, w, _, th, tw, _ = (x.to(place) for x in heads(5, 7, torch.float64))
    h.requires_grad_()
    for reduction in ("none", "sum"):
        loss = KF.linear_kl_div(h, w, th, tw, reduction=reduction).sum()
        (grad,) = torch.autograd.grad(loss, h, create_graph=True)
        with pytest.raises(RuntimeError, match="linear_kl_div has first derivatives only"):
            grad.sum().backward()


def test_bad_input():
    h, w, b, th, tw, tb = heads(4, 7, torch.float32)
    call = KF.linear_kl_div
    checks.refuses(
        [
            (lambda: call(h, w, th, tw[:6]), ValueError, "7 and 6 classes along dim 0"),
            (lambda: call(h, w, th[:3], tw), ValueError, "the same rows"),
            (lambda: call(h, w.t(), th, tw), ValueError, r"student_weight must have shape \[classes, 12\]"),
            (
                lambda: call(h, w, th, tw, student_bias=b[:3]),
                ValueError,
                r"student_bias must have shape \(7,\)",
            ),
            (lambda: call(h[0], w, th, tw), ValueError, r"student_hidden must have shape \[rows, features\]"),
            (lambda: call(h.long(), w, th, tw), TypeError, "student_hidden must be float64"),
            (
                lambda: call(h, w, th, tw, divergence="tv"),
                ValueError,
                "divergence must be one of kl, reverse_kl, js",
            ),
            (lambda: call(h, w, th, tw, divergence=["kl"]), ValueError, "divergence must be one of"),
            (lambda: call(h, w, th, tw, beta=2), ValueError, r"beta must be in \[0, 1\]"),
            (lambda: call(h, w, th, tw, chunk_rows=0), ValueError, "chunk_rows must be at least 1"),
            (lambda: call(h, w, th, tw, mask=torch.ones(3)), ValueError, "one value per row"),
            (lambda: call(h, w, th.to("meta"), tw), RuntimeError, "both must be on one device"),
        ]
    )


def test_module():
    h, w, b, th, tw, tb = heads(4, 7, torch.float32)
    module = kdfast.nn.LinearKLDivLoss(divergence="js", temperature=2.0)
    expected = KF.linear_kl_div(h, w, th, tw, student_bias=b, divergence="js", temperature=2.0)
    assert torch.equal(module(h, w, th, tw, student_bias=b), expected)
