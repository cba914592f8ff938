"""ScaleKD's teachers and students: every family, the teacher's last parts, published sizes."""

import pytest
import timm
import torch
import torch.nn.functional as F
from scale_kd_models import SIDE, batch, beit, distiller, swin, swin_v2, vit
from waves import close

import kdfast
from kdfast.recipes import scale_kd
from kdfast.recipes.common.augment import MEAN, STD
from kdfast.recipes.scale_kd.recipe import fold_normalisation

STUDENTS = {
    "resnet10t": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "mixer_s16_224": {"img_size": 64},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 6, "embed_dim": 24},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "embed_dim": 12, "num_heads": (1,) * 4},
    "resmlp_12_224": {"img_size": 64},
}  # fmt: skip


@pytest.mark.parametrize("name", STUDENTS)
def test_students(name):
    student = timm.create_model(name, num_classes=5, **STUDENTS[name])
    side = STUDENTS[name].get("img_size", SIDE)
    images, y = torch.randn(2, 3, side, side), torch.tensor([0, 1])
    resize = None if side == SIDE else lambda x: F.interpolate(x, SIDE)
    d = scale_kd.ScaleKD(student, swin(), images, teacher_inputs=resize)
    d(images, target=y).loss.backward()
    stage3 = d.student.model.get_submodule(d.student.maps.paths[0])
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage3.parameters())


TEACHERS = {
    "swin": swin,
    "swin_v2": lambda: swin_v2(),
    "vit": vit,
    "deit": lambda: vit(class_token=False, global_pool="avg"),
    "beit": beit,
    "beit_shared": lambda: vit(timm.models.Beit, use_abs_pos_emb=False, use_shared_rel_pos_bias=True),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_teachers(kind):
    """The target is what the teacher's forward_features gives; gradients reach the first projector."""
    teacher = TEACHERS[kind]()
    d, (images, y) = distiller(teacher=teacher), batch(2)
    features = teacher.forward_features(images).detach()
    out = d(images, target=y)
    assert torch.equal(out.teacher, teacher(images))
    loss = d.terms[0].loss
    wanted = features.flatten(1, 2) if features.dim() == 4 else features[:, loss.prefix :]
    grids = scale_kd.parts_of(teacher).grids
    assert wanted.shape[1] == grids[1][0] * grids[1][1]
    assert torch.equal(loss(wanted.flip(1), features), loss.__class__("spatial")(wanted.flip(1), wanted))
    out.loss.backward()
    assert d.student.projectors.caps["3_spatial"].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "stage", "begin", "end"),
    [("deit", 3, "blocks.1", "blocks.4"), ("deit", 4, "blocks.4", "norm"), ("swin", 3, "layers.1", "norm")],
)
def test_last_parts_continue_the_teacher(kind, stage, begin, end):
    """The teacher's own features, put in where the student's go, come out as the teacher's."""
    teacher = TEACHERS[kind]().eval()
    with torch.no_grad():
        _, features = kdfast.FeatureTap(teacher, {"begin": begin, "end": end})(batch(2)[0])
        tokens = [x.flatten(1, 2) if x.dim() == 4 else x for x in features.values()]
        found = scale_kd.parts_of(teacher).tails[stage - 3](tokens[0])
    close(found, tokens[1], 1e-5)


def test_replayed_teacher_is_the_same():
    teacher = vit()
    d, (images, y) = distiller(teacher=teacher), batch()
    d.eval()
    with torch.no_grad():
        stored = {"": teacher(images), "norm": teacher.forward_features(images)}
    assert torch.equal(d(images, target=y).loss, d(images, target=y, replay=stored).loss)


def test_published_sizes():
    """The projectors of R50 and Swin-L: 17.9 M each for stage 3, 70.1 M each for stage 4, 176 M in all."""
    with torch.device("meta"):
        projectors = scale_kd.Projectors(
            [torch.Size((1024, 14, 14)), torch.Size((2048, 7, 7))],
            scale_kd.TeacherParts("norm", (768, 1536), ((14, 14), (7, 7)), (None, None)),
            stages=(3, 4), views=("spatial", "alternative"),
        )  # fmt: skip
    size = {name: sum(p.numel() for p in cap.parameters()) / 1e6 for name, cap in projectors.caps.items()}
    assert round(size["3_spatial"], 1) == 17.9 and round(size["4_spatial"], 1) == 70.1
    assert round(sum(size.values())) == 176
    assert [cap.num_heads for cap in projectors.caps.values()] == [16, 16, 24, 24]


def test_other_normalisation_goes_into_the_weights():
    model = vit()
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    pixels = torch.rand(2, 3, SIDE, SIDE)
    wanted = model((pixels - 0.5) / 0.5)
    fold_normalisation(model)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    torch.testing.assert_close(model((pixels - mean) / std), wanted, rtol=1e-4, atol=1e-4)
