"""ScaleKD: losses against the published vectors and a DCT, the way of gradients, export, bad options."""

import pytest
import timm
import torch
import torch.nn.functional as F
from scale_kd_models import batch, cnn, distiller, swin, vit
from waves import close, wave

from kdfast.recipes import scale_kd

VECTORS = [
    ("spatial", 0.08, 0.673330394111, 0.601865795295, (-0.033590530335, 0.031194744739, -0.000707514706)),
    ("alternative", 0.06, 0.505435071373, 0.565152025401,
     (-0.040687991771, 0.031582965198, -0.008989420492)),
]  # fmt: skip


@pytest.mark.parametrize(("view", "weight", "value", "total", "first"), VECTORS)
def test_view_vectors(view, weight, value, total, first):
    s = wave((2, 4, 3)).requires_grad_()
    t = (0.5 + wave((2, 3, 2, 2), 1, 0.8)).flatten(2).mT
    loss = weight * scale_kd.ViewLoss(view, eps=1e-12)(s, t)
    loss.backward()
    close(loss, value)
    close(s.grad.abs().sum(), total)
    close(s.grad.flatten()[:3], first)


def test_soft_cross_entropy_vector():
    s, t = wave((2, 5), 3).requires_grad_(), wave((2, 5), 3, 0.5).float()
    loss = 0.5 * scale_kd.SoftCrossEntropy()(s, t)
    loss.backward()
    close(loss, 0.543045627715, 1e-6)
    close(s.grad.abs().sum(), 0.347396559413, 1e-6)
    close(s.grad.flatten()[:3], (-0.082312305012, 0.072940279754, 0.009658150316), 1e-6)


def test_soft_cross_entropy_survives_underflow():
    s = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    loss = scale_kd.SoftCrossEntropy()(s, torch.tensor([[0.0, 1.0, 2.0]]))
    loss.backward()
    assert loss.isfinite() and s.grad.isfinite().all()


@pytest.mark.parametrize("side", [7, 14])
def test_alternative_view_is_the_map_without_its_dc_coefficient(side):
    """The paper's DCT, coefficient (0, 0) set to zero, and back."""
    maps = torch.randn(2, 2, 6, side, side, dtype=torch.float64)
    k = torch.arange(side, dtype=torch.float64)
    dct = 2 * torch.cos(torch.pi * k[:, None] * (2 * k + 1) / (2 * side))
    coefficients = dct @ maps @ dct.T
    coefficients[..., 0, 0] = 0
    back = torch.linalg.inv(dct)
    unit = [F.normalize(x, dim=1) for x in back @ coefficients @ back.T]
    wanted = (unit[0] - unit[1]).square().sum() / 2
    tokens = [x.flatten(2).mT for x in maps]
    close(scale_kd.ViewLoss("alternative", eps=1e-12)(*tokens), wanted, 1e-10)


def test_mean_over_positions_and_single_positions():
    s, t = torch.randn(2, 3, 9, 4, dtype=torch.float64)
    summed, averaged = (
        scale_kd.ViewLoss("spatial", reduction=reduction)(s, t) for reduction in ("sum_hw", "mean_hw")
    )
    close(summed / 9, averaged, 1e-12)
    one = torch.randn(3, 1, 4, requires_grad=True)
    loss = scale_kd.ViewLoss("alternative")(one, torch.randn(3, 1, 4))
    loss.backward()
    assert loss == 0 and not one.grad.any()


def test_constant_map_gets_no_gradient_in_the_alternative_view():
    s = torch.full((2, 49, 8), 3.0, requires_grad=True)
    scale_kd.ViewLoss("alternative")(s, torch.randn(2, 49, 8)).backward()
    assert not s.grad.any()


def test_loss_is_the_sum_of_its_terms():
    d, (images, y) = distiller(), batch()
    out = d(images, target=y)
    assert set(out.terms) == {"spat_3", "alt_3", "spat_4", "alt_4", "kd"}
    w = {"spat_3": 0.08, "spat_4": 0.08, "alt_3": 0.06, "alt_4": 0.06, "kd": 0.5}
    total = 0.5 * F.cross_entropy(out.output, y) + sum(w[k] * v for k, v in out.terms.items())
    close(out.loss, total, 1e-5)


def test_equations_by_hand():
    """Both uses of the proxy path, written out with the modules' weights."""
    d, (images, y) = distiller(), batch()
    for cap in d.student.projectors.caps.values():  # far from uniform attention, where rounding decides
        torch.nn.init.normal_(cap.position)
    with torch.no_grad():
        out = d(images, target=y)
        model = d.teacher
        t4 = model.forward_features(images).flatten(1, 2)
        _, (f3, f4) = d.student.maps(images)
        for view, name in (("spatial", "spat"), ("alternative", "alt")):
            g = d.student.projectors.caps[f"3_{view}"](f3)
            h = model.norm(model.layers[-1](g.unflatten(1, (8, 8)))).flatten(1, 2)
            o = d.student.projectors.caps[f"4_{view}"](f4, h)
            for stage, x in ((3, h), (4, o)):
                pair = [z - z.mean(1, keepdim=True) if view == "alternative" else z for z in (x, t4)]
                s, t = (F.normalize(z, dim=-1) for z in pair)
                close(out.terms[f"{name}_{stage}"], (s - t).square().sum() / 4, 1e-4)


def test_gradients_pass_through_the_frozen_stage():
    d, (images, y) = distiller(alpha=1.0, kd=False, spatial_weight=(0, 1), alternative_weight=0), batch()
    d(images, target=y).loss.backward()
    caps = d.student.projectors.caps
    assert caps["3_spatial"].conv.weight.grad.abs().sum() > 0, "stage 4's queries come through stage 3"
    stage3 = d.student.model.get_submodule(d.student.maps.paths[0])
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage3.parameters())
    assert all(p.grad is None and not p.requires_grad for p in d.teacher.parameters())


def test_teacher_is_unregistered_and_in_eval_mode():
    teacher = swin(drop_path_rate=0.5)
    d = distiller(teacher=teacher).train()
    mine = {id(p) for p in d.parameters()}
    assert not mine & {id(p) for p in teacher.parameters()}
    assert not any("teacher" in key or "tail" in key for key in d.state_dict())
    d(batch()[0], target=batch()[1])
    assert not any(m.training for m in teacher.modules())


def test_published_train_mode_moves_the_targets():
    """With stochastic depth in the teacher, its targets and its last part."""
    d = distiller(teacher=swin(drop_path_rate=0.5), teacher_train_mode=True).train()
    images, y = batch(16)
    torch.manual_seed(0)
    first, second = (d(images, target=y).teacher for _ in range(2))
    assert not torch.equal(first, second) and all(m.training for m in d.teacher.modules())
    d.eval()
    first, second = (d(images, target=y).loss for _ in range(2))
    assert torch.equal(first, second) and not any(m.training for m in d.teacher.modules())


def test_overfits_one_batch():
    d, (images, y) = distiller(), batch()
    optimizer = torch.optim.AdamW(d.parameters(), lr=1e-3)
    first = d(images, target=y)
    for _ in range(60):
        optimizer.zero_grad()
        out = d(images, target=y)
        out.loss.backward()
        optimizer.step()
    assert out.loss < 0.6 * first.loss
    for name in ("spat_3", "alt_3", "spat_4", "alt_4"):
        assert out.terms[name] < 0.7 * first.terms[name], name
    assert (out.output.argmax(1) == y).all()


def test_export_leaves_the_bare_student():
    student = cnn()
    keys = set(student.state_dict())
    d = distiller(student=student)
    assert d.export_student() is student and set(student.state_dict()) == keys
    assert not any(m._forward_hooks for m in student.modules())


def test_low_precision_teacher():
    d, (images, y) = distiller(teacher_dtype=torch.bfloat16), batch()
    assert next(d.teacher.parameters()).dtype == torch.bfloat16
    out = d(images, target=y)
    out.loss.backward()
    assert out.loss.dtype == torch.float32 and out.loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": (2, 3)}, r"stages must be some of 3 and 4, got \[2, 3\]"),
        ({"views": ("dct",)}, r"views must be some of spatial, alternative, got \['dct'\]"),
        ({"alpha": 2}, r"alpha must be in \[0, 1\], got 2"),
        ({"spatial_weight": (1, 2, 3)}, "spatial_weight must be one or two numbers"),
        ({"student_taps": ("layer4",)}, "a student needs two taps"),
        ({"teacher": timm.create_model("resnet10t")}, "must be a Swin, .* or BEiT of timm, got ResNet"),
        ({"teacher": vit(depth=4)}, "needs at least 5 blocks, got 4"),
        ({"num_heads": (3, 3)}, "num_heads must divide dim"),
    ],
)  # fmt: skip
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        distiller(**options)
