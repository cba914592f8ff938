"""box_loss: L1 and generalised IoU."""

import pytest
import torch
from check import Case, check_op
from feature_checks import DTYPES, gradcheck, near, refuses, size, value_and_grads, works_with_pytorch

import kdfast
import kdfast.functional as KF
from kdfast.ops.box_loss import box_loss_reference

OP = "box_loss"

TEACHER = [[0.5, 0.5, 0.2, 0.3], [0.3, 0.6, 0.1, 0.1], [0.7, 0.2, 0.4, 0.2]]
STUDENT = [[0.52, 0.48, 0.25, 0.28], [0.2, 0.6, 0.1, 0.2], [0.1, 0.8, 0.1, 0.1]]
WEIGHT = [0.860397435182, 0.878544273032, 0.695134990431]


def vector(place):
    return (torch.tensor(x, dtype=torch.float64, device=place) for x in (STUDENT, TEACHER, WEIGHT))


def test_vector(place):
    s, t, w = vector(place)
    giou = 1 - KF.box_loss(s, t, l1=0.0, giou=1.0, reduction="none")
    assert giou.tolist() == pytest.approx([0.691171477080, -0.25, -0.858823529412], rel=1e-11)
    value, (grad,) = value_and_grads(lambda s: KF.box_loss(s, t, weight=w, giou=0.0, reduction="mean"), s)
    near(value, 0.710006672107, 1e-11), near(size(grad), 4.09766167853, 1e-11)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [0.441850001923, -0.441850001923, 0.441850001923], rel=1e-10
    )
    value, (grad,) = value_and_grads(lambda s: KF.box_loss(s, t, weight=w, l1=0.0, reduction="mean"), s)
    near(value, 2.18237074298, 1e-11)
    near(size(grad[0]), 5.85274537256, 1e-11), near(size(grad[2]), 0.280380243364, 1e-11)
    near(size(grad), 12.9006630269, 1e-10)  # the gradient at touching boxes is that of clamp(min=0)
    assert grad.flatten()[:3].tolist() == pytest.approx(
        [0, -3.594263388574, 2.069558920276], rel=1e-10, abs=1e-12
    )


def test_torchvision_agrees(place, need):
    need.module("torchvision")
    from torchvision.ops import box_convert, generalized_box_iou

    s, t = (
        torch.rand(2, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        .add(0.01)
        .to(place)
    )
    matrix = generalized_box_iou(box_convert(s, "cxcywh", "xyxy"), box_convert(t, "cxcywh", "xyxy"))
    torch.testing.assert_close(KF.box_loss(s, t, l1=0.0, giou=1.0, reduction="none"), 1 - matrix.diagonal())


def test_boxes_without_area_are_finite(place):
    s = torch.tensor(
        [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0.2], [0.1, 0.1, 0, 0], [0.5, 0.5, 0.1, 0.1]], device=place
    )
    t = torch.tensor([[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0.2], [0.9, 0.9, 0, 0], [0.5, 0.5, 0, 0]], device=place)
    rows, (grad,) = value_and_grads(lambda s: KF.box_loss(s, t), s)
    assert rows.isfinite() and grad.isfinite().all() and grad.abs().max() < 1e4


def cases(dtype):
    generator = torch.Generator().manual_seed(0)
    for rows in (0, 1, 3, 8, 33, 257):
        s, t = (
            torch.rand(rows, 4, generator=generator, dtype=torch.float64).add(0.05).to(dtype)
            for _ in range(2)
        )
        yield Case(f"{rows}", (s,), (t,))
    weight = torch.linspace(0, 2, 257)
    for reduction in ("sum", "mean", "none", "batchmean"):
        yield Case(reduction, (s,), (t,), {"weight": weight, "reduction": reduction})
    yield Case("weights of zero", (s,), (t,), {"weight": 0 * weight, "reduction": "mean"})
    yield Case(
        "layers",
        (s[:240].reshape(6, 40, 4),),
        (t[:240].reshape(6, 40, 4),),
        {"weight": weight[:240].reshape(6, 40)},
    )
    yield Case("strides", (s.t().contiguous().t()[::2],), (t[::2],))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_its_definition(place, dtype):
    check_op(KF.box_loss, box_loss_reference, cases(dtype), place)


def test_gradients(place):
    s, t, w = vector(place)
    s = s[[0, 2]]
    for reduction in ("sum", "none"):
        gradcheck(lambda s, r=reduction: KF.box_loss(s, t[[0, 2]], weight=w[[0, 2]], reduction=r), s)
    works_with_pytorch(lambda s: KF.box_loss(s, t.float()[[0, 2]]), s.float())


def test_bad_input_and_module():
    s, t, w = vector("cpu")
    refuses(ValueError, r"\[..., 4\]", KF.box_loss, s[:, :3], t[:, :3])
    refuses(ValueError, "weight must be", KF.box_loss, s, t, weight=w[:2])
    refuses(ValueError, "l1 must be", KF.box_loss, s, t, l1=-1)
    for name, x in (("student_boxes", s), ("teacher_boxes", t)):
        for bad in (torch.nan, -0.1):
            wrong = x.clone()
            wrong[1, 3] = bad
            refuses(ValueError, name, KF.box_loss, *((wrong, t) if name[0] == "s" else (s, wrong)))
            kept = KF.box_loss(
                *((wrong, t) if name[0] == "s" else (s, wrong)), weight=torch.tensor([1.0, 0, 1])
            )
            assert kept.isfinite()
    assert torch.equal(kdfast.nn.BoxLoss(l1=1.0)(s, t, weight=w), KF.box_loss(s, t, weight=w, l1=1.0))
