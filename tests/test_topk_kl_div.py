"""topk_kl_div: its vectors, the gradient of every class, tails with nothing in them, bad indices."""

import loss_checks as checks
import pytest
import torch
import vectors
from check import Case, check_op, logits
from waves import wave

import kdfast
import kdfast.functional as KF
from kdfast.ops.topk_kl_div import topk_kl_div_reference

OP = "topk_kl_div"
VECTORS = {
    "V1": ((0.4564759207, 1.575411311), (0.1504342362, 0.5137438351), (0.02388501288, 0.07830364712)),
    "V2": (
        (3.456547927e-10, 9.333200271e-6),
        (2.853277797e-10, 4.274624930e-6),
        (1.117624940e-10, 8.942034878e-7),
    ),
    "V3": ((1.106622707, 2.286857573), (0.3820237794, 0.7943963993), (0.05762571719, 0.1243602492)),
    "V4": ((1.401021890, 2.395608786), (0.5849818076, 0.9218447299), (0.1321088743, 0.1915199312)),
    "V5": ((vectors.INF, 2.281303871), (vectors.INF, 0.9403729073), (vectors.INF, 0.2273013425)),
}


def top(teacher: torch.Tensor, k: int, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and classes of the k largest, of the whole softmax."""
    log_probs = (teacher / temperature).log_softmax(-1)
    indices = teacher.topk(k, -1).indices
    return log_probs.gather(-1, indices), indices


def cases(dtype):
    for rows, classes, k in (
        (0, 8, 3),
        (1, 1, 1),
        (3, 9, 9),
        (3, 9, 8),
        (2, 255, 1),
        (3, 257, 64),
        (3, 1000, 8),
    ):
        student, teacher = logits((rows, classes), dtype, seed=classes)
        yield Case(f"{rows}x{classes}, {k}", (student,), top(teacher.double(), k), {"temperature": 1.0})
    for kind in ("peaky", "near"):
        student, teacher = logits((5, 300), dtype, kind)
        yield Case(kind, (student,), top(teacher.double(), 16, 2.0), {"temperature": 2.0})
    student, teacher = logits((6, 70), dtype)
    sparse = top(teacher.double(), 5)
    yield Case(
        "sliced", (student[::2],), (sparse[0][::2], sparse[1][::2]), {"mask": torch.tensor([1.0, 0, 2])}
    )
    yield Case("transposed", (student.t().contiguous().t(),), (sparse[0], sparse[1].int()))
    yield Case("deep", (student.reshape(2, 3, 70),), tuple(x.reshape(2, 3, 5) for x in sparse))


@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype, tail):
    def typed():
        for case in cases(dtype):
            log_probs = case.constants[0].to(dtype if dtype == torch.float64 else torch.float32)
            yield Case(case.name, case.inputs, (log_probs, case.constants[1]), case.keywords)

    for reduction in ("batchmean", "none", "mean", "sum"):
        call = lambda *a, r=reduction, **k: KF.topk_kl_div(*a, **k, tail=tail, reduction=r)  # noqa: E731
        plain = lambda *a, r=reduction, **k: topk_kl_div_reference(*a, **k, tail=tail, reduction=r)  # noqa: E731
        check_op(call, plain, typed(), place)


def test_vectors(place):
    plain = kdfast.backend.of(torch.empty(0, device=place)) == "reference"
    for name, rows in VECTORS.items():
        student, teacher = (x.to(place) for x in vectors.inputs(name))
        for temperature, (value, size) in zip(vectors.TEMPERATURES, rows, strict=True):
            sparse = top(teacher, 4, temperature)
            call = lambda s, p=sparse, T=temperature: KF.topk_kl_div(  # noqa: E731
                s, *p, temperature=T, scale_t2=False, reduction="sum"
            )
            # The teacher's log-probabilities themselves limit V2's last digits.
            checks.has_value(
                call, student, value, size, rel=(1e-5 if plain else 1e-9) if name == "V2" else 1e-9
            )


def test_gradient_reaches_the_classes_that_were_not_chosen(place):
    """A known peer gives a gradient to the k classes alone and loses a tenth of it."""
    student, teacher = wave((4, 37), 2.5, 0.7).to(place), wave((4, 37), 3, 0).to(place)
    log_probs, indices = top(teacher, 4)
    q, p = student.softmax(-1), torch.zeros_like(student).scatter(-1, indices, log_probs.exp())
    chosen = torch.zeros_like(student).scatter(-1, indices, 1).bool()
    p_rest = 1 - p.sum(-1, keepdim=True)
    q_rest = torch.where(chosen, 0, q).sum(-1, keepdim=True)
    bucket = torch.where(chosen, q - p, q * (1 - p_rest / q_rest))
    renormalized = q - p / p.sum(-1, keepdim=True)
    for tail, expected in (("bucket", bucket), ("renormalize", renormalized)):
        grad = checks.gradient(
            lambda s, t=tail: KF.topk_kl_div(s, log_probs, indices, tail=t, reduction="sum"), student
        )
        torch.testing.assert_close(grad, expected)
        torch.testing.assert_close(grad.sum(-1), torch.zeros(4, dtype=torch.float64, device=place))
        dropped = torch.where(chosen, grad, 0)
        assert (dropped - grad).norm() > 0.05 * grad.norm()


def test_all_classes_are_kl_div(place):
    student, teacher = wave((4, 9), 2.5, 0.7).to(place), wave((4, 9), 3, 0).to(place)
    for dtype in (torch.float64, torch.float32):
        s, sparse = (
            student.to(dtype),
            [x.to(dtype) if x.is_floating_point() else x for x in top(teacher, 9, 2.0)],
        )
        expected = KF.kl_div(s, teacher.to(dtype), temperature=2.0)
        for tail in ("bucket", "renormalize"):
            loss = KF.topk_kl_div(s, *sparse, temperature=2.0, tail=tail)
            torch.testing.assert_close(loss, expected)


def test_a_tail_in_which_nothing_can_occur(place):
    """Every possible class is among the k: what rounding leaves of the teacher's mass must not make the loss
    infinite.
    """
    inf = float("inf")
    student, teacher = wave((3, 17), 2.5, 0.7).to(place), wave((3, 17), 3, 0).to(place)
    student[:, 6:], teacher[:, 6:] = -inf, -inf
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        log_probs, indices = top(teacher, 6)
        loss = KF.topk_kl_div(student.to(dtype), log_probs.to(dtype), indices, reduction="none")
        assert loss.isfinite().all() and (loss > 0).all()


def test_rows_that_do_not_count(place):
    inf, nan = float("inf"), float("nan")
    student, teacher = wave((5, 9), 2.5, 0.7).to(place), wave((5, 9), 3, 0).to(place)
    log_probs, indices = top(teacher, 3)
    expected = KF.topk_kl_div(student[:1], log_probs[:1], indices[:1], reduction="mean")
    student[1], log_probs[2], student[3, 0], log_probs[4], indices[4] = -inf, -inf, nan, nan, -7
    mask = torch.tensor([True, True, True, False, False], device=place)
    student.requires_grad_()
    loss = KF.topk_kl_div(student, log_probs, indices, mask=mask, reduction="mean")
    torch.testing.assert_close(loss, expected)
    assert (torch.autograd.grad(loss, student)[0][1:] == 0).all()
    for reduction in ("mean", "sum", "batchmean"):
        loss = KF.topk_kl_div(student, log_probs, indices, mask=torch.zeros_like(mask), reduction=reduction)
        checks.is_attached_zero(loss, student)
        empty = torch.zeros(0, 9, device=place, requires_grad=True)
        loss = KF.topk_kl_div(empty, log_probs[:0].float(), indices[:0], reduction=reduction)
        checks.is_attached_zero(loss, empty)


def test_reads_what_the_cache_keeps(place, tmp_path):
    student, teacher = (x.to(place) for x in logits((4, 50), torch.float32))
    from kdfast.distill.top_k import top_k_of

    sparse = top_k_of(teacher, 8, 4.0)
    expected = KF.topk_kl_div(student, *top(teacher, 8, 4.0), temperature=4.0)
    torch.testing.assert_close(KF.topk_kl_div(student, *sparse, temperature=4.0), expected)


def test_index_out_of_range(place, need):
    need.that(place == "cpu", "on a GPU contents are never read back")
    student, teacher = wave((4, 9), 2.5, 0.7), wave((4, 9), 3, 0)
    log_probs, indices = top(teacher, 3)
    for bad in (9, -1):
        with pytest.raises(ValueError, match=r"teacher_indices must hold class numbers in \[0, 8\]"):
            KF.topk_kl_div(student, log_probs, torch.full_like(indices, bad))


def test_works_with_pytorch(place):
    student, teacher = wave((3, 9), 2.5, 0.7).to(place), wave((3, 9), 3, 0).to(place)
    sparse = top(teacher, 3, 1.7)
    for reduction in ("none", "batchmean"):
        for tail in ("bucket", "renormalize"):
            checks.works_with_pytorch(
                lambda s, r=reduction, t=tail: KF.topk_kl_div(
                    s, *sparse, temperature=1.7, tail=t, reduction=r
                ),
                student,
            )


def test_bad_input():
    x, p, i = torch.randn(3, 5), torch.randn(3, 2), torch.zeros(3, 2, dtype=torch.long)
    call = KF.topk_kl_div
    checks.refuses(
        [
            (lambda: call(x, torch.randn(3, 6), i), ValueError, "between 1 and 5 classes"),
            (lambda: call(x, p[:2], i[:2]), ValueError, r"shape \(3, k\)"),
            (lambda: call(x, p, i[:, :1]), ValueError, r"teacher_indices must have shape \(3, 2\)"),
            (lambda: call(x, p, p), TypeError, "teacher_indices must hold class numbers"),
            (lambda: call(x, i, i), TypeError, "teacher_log_probs must be float64"),
            (lambda: call(x, p, i, tail="none"), ValueError, "tail must be one of bucket, renormalize"),
            (lambda: call(x, p, i, mask=torch.ones(2)), ValueError, "one value per row"),
        ]
    )


def test_module():
    x, sparse = torch.randn(3, 5), top(torch.randn(3, 5), 2, 2.0)
    module = kdfast.nn.TopKKLDivLoss(temperature=2.0, tail="renormalize")
    assert torch.equal(module(x, *sparse), KF.topk_kl_div(x, *sparse, temperature=2.0, tail="renormalize"))
