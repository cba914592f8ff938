"""rpn_distill: Dynamic Y-KD's filtered objectness and gated deltas."""

import pytest
import torch
from check import Case, check_op
from feature_checks import (
    DTYPES,
    gradcheck,
    near,
    noise,
    refuses,
    size,
    value_and_grads,
    works_with_pytorch,
)
from waves import wave

import kdfast.functional as KF
from kdfast.ops.rpn_distill import rpn_distill_reference

OP = "rpn_distill"


def rpn(place):
    waves = ((1, 2, 2, 3), 1.9), ((1, 2, 2, 3), 0.4), ((1, 8, 2, 3), 2.2), ((1, 8, 2, 3), 0.1)
    return [wave(shape, 1.0, phase).to(place) for shape, phase in waves]


def test_vector(place):
    so, to, sd, td = rpn(place)
    (value, (grad, _)) = value_and_grads(lambda so, sd: KF.rpn_distill(so, to, sd, td)[0], so, sd)
    near(value, 0.488691196929, 1e-11), near(size(grad), 0.927729161847, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [-0.124366733462, -0.227204889956, -0.121151918433], rel=1e-10
    )
    (value, (none, grad)) = value_and_grads(lambda so, sd: KF.rpn_distill(so, to, sd, td)[1], so, sd)
    near(value, 2.98745746142, 1e-11), near(size(grad), 4.41602031267, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [-0.158263583915, -0.289130856510, -0.154172553026], rel=1e-10
    )
    assert not none.any()


def cases(dtype):
    for batch, anchors, height, width in ((1, 1, 1, 1), (2, 3, 5, 7), (1, 15, 33, 40)):
        so, to = (noise((batch, anchors, height, width), dtype, k) for k in (0, 1))
        sd, td = (noise((batch, 4 * anchors, height, width), dtype, k) for k in (2, 3))
        yield Case(f"{tuple(so.shape)}", (so, sd), (to, td))
    last = torch.channels_last
    yield Case("channels last", (so.to(memory_format=last), sd), (to, td.to(memory_format=last)))
    yield Case("sliced", (so[..., ::3], sd[..., ::3]), (to[..., ::3], td[..., ::3]))
    yield Case("threshold", (so, sd), (to, td), {"threshold": 1.0})


def ordered(function):
    return lambda so, sd, to, td, **options: function(so, to, sd, td, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(ordered(KF.rpn_distill), ordered(rpn_distill_reference), cases(dtype), place)


def test_mixed_dtypes(place):
    so, to, sd, td = (x.to(d) for x, d in zip(rpn(place), (torch.bfloat16, torch.float32) * 2, strict=True))
    torch.testing.assert_close(KF.rpn_distill(so, to, sd, td), rpn_distill_reference(so, to, sd, td))


def test_one_side_may_need_no_gradient(place):
    so, to, sd, td = rpn(place)
    gradcheck(lambda so: sum(KF.rpn_distill(so, to, sd, td)), so)
    gradcheck(lambda sd: sum(KF.rpn_distill(so, to, sd, td)), sd)
    both = lambda so, sd: 2 * KF.rpn_distill(so, to, sd, td)[0] + 3 * KF.rpn_distill(so, to, sd, td)[1]  # noqa: E731
    gradcheck(both, so, sd)
    so, sd = so.detach(), sd.detach()
    for which in (0, 1):  # the other loss is a constant then, and says so
        logits, deltas = (x.clone().requires_grad_(i == which) for i, x in enumerate((so, sd)))
        assert [x.requires_grad for x in KF.rpn_distill(logits, to, deltas, td)] == [which == 0, which == 1]


def test_no_anchors(place):
    a, b = noise((0, 3, 2, 2)).to(place), noise((0, 12, 2, 2)).to(place)
    value, grads = value_and_grads(lambda a, b: sum(KF.rpn_distill(a, a.detach(), b, b.detach())), a, b)
    assert value == 0 and [g.shape for g in grads] == [a.shape, b.shape]


def test_what_the_gate_drops_may_hold_nan(place):
    so, to, sd, td = rpn(place)
    sd = torch.where((to - so > 0.1).repeat_interleave(4, 1), sd, torch.nan)
    value, grads = value_and_grads(lambda so, sd: sum(KF.rpn_distill(so, to, sd, td)), so, sd)
    assert value.isfinite() and all(g.isfinite().all() for g in grads)


def test_works_with_pytorch(place):
    so, to, sd, td = (x.float() for x in rpn(place))
    works_with_pytorch(lambda sd: sum(KF.rpn_distill(so, to, sd, td)), sd)
    works_with_pytorch(lambda so: sum(KF.rpn_distill(so, to, sd, td)), so)


def test_opcheck(need):
    need.backend("native")
    so, to, sd, td = (x.float().flatten(2) for x in rpn("cpu"))
    torch.library.opcheck(torch.ops.kdfast.rpn_distill.default, (so, to, sd, td, 0.1, True))
    ups = torch.ones(()), torch.ones(())
    torch.library.opcheck(torch.ops.kdfast.rpn_distill_backward.default, (*ups, so, to, sd, td, 0.1))


def test_bad_input():
    call, logits, deltas = KF.rpn_distill, [torch.rand(1, 2, 2, 2)] * 2, [torch.rand(1, 6, 2, 2)] * 2
    refuses(ValueError, "student_deltas must be", call, *logits, *deltas)
    refuses(ValueError, "same shape", call, logits[0], logits[1][:, :1], *deltas)
    refuses(ValueError, "student_logits must be", call, *(x[0] for x in logits), *deltas)
    fit = [torch.rand(1, 8, 2, 2)] * 2
    refuses(ValueError, "threshold must be", call, *logits, *fit, threshold=float("nan"))
