"""attention_map_kl: the divergence of two attention maps from queries and keys."""

import pytest
import torch
from check import Case, check_op
from feature_checks import DTYPES, gradcheck, noise, peak_bytes, refuses, works_with_pytorch

import kdfast
import kdfast.functional as KF
import kdfast.nn
from kdfast.ops import attention_map_kl as room
from kdfast.ops.attention_map_kl import attention_map_kl_reference

OP = "attention_map_kl"


def inputs(lead=(2, 3), rows=9, keys=7, widths=(4, 6), dtype=torch.float64):
    """student_query, student_key, teacher_query, teacher_key."""
    s, t = widths
    return (
        noise((*lead, rows, s), dtype),
        noise((*lead, keys, s), dtype, 1),
        noise((*lead, rows, t), dtype, 2),
        noise((*lead, keys, t), dtype, 3),
    )


def maps(sq, sk, tq, tk, scale=None):
    """Both attention maps."""
    own = lambda q: q.size(-1) ** -0.5 if scale is None else scale  # noqa: E731
    return ((own(sq) * sq @ sk.mT).softmax(-1), (own(tq) * tq @ tk.mT).softmax(-1))


def test_the_definition_is_the_divergence_of_the_maps():
    x = inputs()
    student, teacher = maps(*x)
    rows = (teacher * (teacher / student).log()).sum(-1)
    for reduction, expected in (
        ("none", rows),
        ("sum", rows.sum()),
        ("mean", rows.mean()),
        ("batchmean", rows.sum() / 2),
    ):
        torch.testing.assert_close(attention_map_kl_reference(*x, reduction=reduction), expected)


def cases(dtype):
    def case(name, x, **keywords):
        return Case(name, x[:2], x[2:], keywords, 1e-12)

    yield case("heads", inputs(dtype=dtype))
    yield case("no heads", inputs((3,), 20, 33, (16, 8), dtype))
    yield case("one key", inputs((1,), 5, 1, dtype=dtype))
    yield case("empty batch", inputs((0, 2), dtype=dtype))
    yield case("rows", inputs((2, 2), 70, 65, (19, 32), dtype), reduction="none")
    yield case("scales", inputs(dtype=dtype), student_scale=0.3, teacher_scale=1.5, reduction="sum")
    mask = torch.arange(9).remainder(4).ne(1).expand(2, 3, 9)
    keys = torch.arange(7).ne(2).expand(2, 7).clone()
    yield case("rows dropped", inputs(dtype=dtype), mask=mask, reduction="mean")
    yield case("rows weighed", inputs(dtype=dtype), mask=mask * torch.linspace(0.5, 2, 9), reduction="none")
    yield case("keys dropped", inputs(dtype=dtype), key_mask=keys)
    keys = keys.clone()
    keys[1] = False
    yield case("no keys", inputs(dtype=dtype), key_mask=keys)
    yield case("transposed", tuple(x.mT.contiguous().mT for x in inputs(dtype=dtype)), reduction="batchmean")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_definition(place, dtype):
    check_op(KF.attention_map_kl, attention_map_kl_reference, cases(dtype), place)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_chunks_agree_with_the_whole(dtype, monkeypatch):
    """The definition by chunks of rows, as it runs where there is no kernel."""
    monkeypatch.setattr(room, "CHUNK", 6 * 7 * 2)
    with kdfast.use("reference"):
        check_op(KF.attention_map_kl, attention_map_kl_reference, cases(dtype))


@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_near_convergence(need, size):
    """Where the maps are nearly one, the kernel keeps the value's digits, and it is not negative."""
    need.backend("native", op=OP)
    sq, sk, *_ = inputs((2, 2), 40, 50, (16, 16), torch.float32)
    tq = sq + size * noise(sq.shape, torch.float32, 9)
    expected = attention_map_kl_reference(*(x.double() for x in (sq, sk, tq, sk)), reduction="none")
    with kdfast.use("native"):
        ours = KF.attention_map_kl(sq, sk, tq, sk, reduction="none")
    assert (ours >= 0).all()
    # Logits carry 1e-7 of rounding each, the value is about the square of their difference.
    torch.testing.assert_close(ours.double(), expected, rtol=2e-6 / size, atol=0)


def test_the_op_keeps_torch_rules(need):
    """Schema, fake kernel, autograd registration and AOT dispatch of the raw op."""
    need.backend("native", op=OP)
    flat = [x.flatten(0, 1) for x in inputs(dtype=torch.float32)]
    factor = torch.ones(6, 9)
    keys = torch.ones(6, 7, dtype=torch.bool)
    for with_grad in (False, True):
        torch.library.opcheck(
            torch.ops.kdfast.attention_map_kl.default, (*flat, 0.5, 0.4, None, keys, factor, with_grad)
        )


def test_equal_maps_and_teachers(place):
    sq, sk, *_ = (x.to(place) for x in inputs())
    same = KF.attention_map_kl(sq, sk, sq, sk)
    assert abs(float(same)) < 1e-12
    teacher = [x.to(place).requires_grad_() for x in inputs()[2:]]
    loss = KF.attention_map_kl(sq.requires_grad_(), sk, *teacher)
    assert torch.autograd.grad(loss, [sq, *teacher], allow_unused=True)[1:] == (None, None)


def test_what_is_dropped_is_harmless(place):
    sq, sk, tq, tk = (x.to(place) for x in inputs())
    mask = torch.arange(9).ne(4).expand(2, 3, 9).to(place)
    keys = torch.arange(7).ne(2).expand(2, 7).to(place)
    expected = KF.attention_map_kl(sq, sk, tq, tk, mask=mask, key_mask=keys)
    sq, tq = sq.clone(), tq.clone()
    sq[..., 4, :], tq[..., 4, :] = torch.nan, torch.nan
    sk, tk = sk.clone(), tk.clone()
    sk[..., 2, :], tk[..., 2, :] = torch.nan, torch.nan
    sq.requires_grad_(), sk.requires_grad_()
    ours = KF.attention_map_kl(sq, sk, tq, tk, mask=mask, key_mask=keys)
    torch.testing.assert_close(ours, expected)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(ours, (sq, sk)))


def test_with_pytorch(place):
    sq, *rest = (x.to(place) for x in inputs(dtype=torch.float32))
    works_with_pytorch(lambda sq: KF.attention_map_kl(sq, *rest), sq)
    module = kdfast.nn.AttentionMapKLLoss(reduction="sum")
    torch.testing.assert_close(module(sq, *rest), KF.attention_map_kl(sq, *rest, reduction="sum"))


def test_gradcheck(place):
    sq, sk, *teacher = (x.to(place) for x in inputs((2,), 5, 4))
    gradcheck(lambda q, k: KF.attention_map_kl(q, k, *teacher, reduction="none"), sq, sk)


def test_no_map_is_in_memory(need):
    need.backend("native", op=OP)
    sq, sk, tq, tk = inputs((1, 1), 4000, 4000, (16, 16), torch.float32)
    sq.requires_grad_(), sk.requires_grad_()
    step = lambda: KF.attention_map_kl(sq, sk, tq, tk).backward()  # noqa: E731
    step()
    assert peak_bytes(step) < 2 * 4000 * 4000 * 4 / 4


def test_bad_input():
    x = inputs()
    call = KF.attention_map_kl
    refuses(TypeError, "teacher_key must be a tensor", call, *x[:3], None)
    refuses(ValueError, "student_query must be", call, x[0][0, 0], *x[1:])
    refuses(ValueError, "student_key must be", call, x[0], x[1][..., :3], *x[2:])
    refuses(ValueError, "both sides' maps must have one shape", call, *x[:3], x[3][..., :5, :])
    refuses(ValueError, "both sides' maps must have one shape", call, *x[:2], x[2][:, :2], x[3][:, :2])
    refuses(ValueError, "mask must have one value per row", call, *x, mask=torch.ones(2, 9))
    refuses(ValueError, "key_mask must be", call, *x, key_mask=torch.ones(2, 9, dtype=torch.bool))
    refuses(ValueError, "reduction must be one of", call, *x, reduction="max")
    refuses(ValueError, "teacher_scale must be", call, *x, teacher_scale=0)
    with kdfast.use("reference"):
        refuses(TypeError, "key_mask must be bool", call, *x, key_mask=torch.ones(2, 7))
