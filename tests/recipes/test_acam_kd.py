"""ACAM-KD on one level: the published vectors, the equations against their materialised form, switches."""

import pytest
import torch
from waves import wave

from kdfast.recipes.acam_kd import ACAMLevel
from kdfast.recipes.acam_kd.eager import materialised, through_sums


def level(channels, student_channels, masks, **options):
    """An ACAMLevel with the parameters of the specification's vectors."""
    made = ACAMLevel(channels, student_channels, num_masks=masks, **options).double()
    half, a = channels // 2, made.attention
    values = {
        a.query.weight: wave([half, channels], 0.5, 0.1), a.query.bias: wave([half], 0.2, 0.2),
        a.key.weight: wave([half, student_channels], 0.5, 0.3), a.key.bias: wave([half], 0.2, 0.4),
        a.value.weight: wave([channels, student_channels], 0.5, 0.5),
        a.value.bias: wave([channels], 0.2, 0.6),
        a.spatial_units: wave([masks, channels], 0.8, 0.7), a.channel_units: wave([masks, 1], 0.8, 0.8),
        made.align.weight: wave([channels, student_channels], 0.5, 0.9),
        made.align.bias: wave([channels], 0.2, 1.1),
    }  # fmt: skip
    with torch.no_grad():
        for parameter, value in values.items():
            parameter.copy_(value.view_as(parameter))
    return made


VECTORS = {
    (2, 6, 6, 3, 4, 3): {
        "loss_c": 1.836665932, "loss_s": 2.354492072, "div": 3.991873315, "pairs": 1.995928279,
        "student": 6.282022718, "query": (0.09737438427, 0.04910267801), "key": (0.4988114824, 0),
        "value": (3.460144835, 2.055686657),
    },
    (1, 5, 4, 3, 3, 4): {
        "loss_c": 0.5817028635, "loss_s": 0.5761965638, "div": 5.841600853, "pairs": 1.947624407,
        "student": 1.466468046, "query": (0.02806370085, 0.02557940762), "key": (0.05233041767, 0),
        "value": (1.777339752, 1.699458935),
    },
    (3, 6, 6, 1, 1, 2): {
        "loss_c": 2.498721264, "loss_s": 2.094917295, "div": 1.962034864, "pairs": 1.962034864,
        "student": 6.955247582, "query": (0, 0), "key": (0, 0), "value": (11.24576356, 2.556977677),
    },
}  # fmt: skip


def maps(size, dtype=torch.float64):
    batch, channels, student_channels, height, width, _ = size
    student = wave([batch, student_channels, height, width], 1.2, 0.4).to(dtype).requires_grad_()
    return student, wave([batch, channels, height, width], 1.5, 0.0).to(dtype)


@pytest.mark.parametrize("size", VECTORS, ids=str)
def test_published_vectors(size):
    want, (student, teacher) = VECTORS[size], maps(size)
    made = level(size[1], size[2], size[5])
    found = made(student, teacher)
    for key, name in (("loss_c", "loss_c"), ("loss_s", "loss_s"), ("loss_div", "div")):
        assert found[key].item() == pytest.approx(want[name], rel=1e-9)
    (found["loss_s"] + found["loss_c"] + found["loss_div"]).backward()
    assert student.grad.abs().sum().item() == pytest.approx(want["student"], rel=1e-8)
    for name in ("query", "key", "value"):
        projection = getattr(made.attention, name)
        got = [p.grad.abs().sum().item() for p in (projection.weight, projection.bias)]
        assert got == pytest.approx(want[name], rel=1e-8, abs=1e-12)
    pairs = level(size[1], size[2], size[5], div="pairwise_mean")(*maps(size))
    assert pairs["loss_div"].item() == pytest.approx(want["pairs"], rel=1e-9)


def first_vector():
    """Maps and masks of vector 1."""
    teacher, aligned = wave([2, 4, 3, 5], 1.0, 0.0), wave([2, 4, 3, 5], 0.7, 0.5)
    channel, spatial = wave([2, 3, 4], 2.0, 1.0).sigmoid(), wave([2, 3, 15], 2.0, 1.5).sigmoid()
    return aligned, teacher, spatial.view(2, 3, 3, 5), channel


@pytest.mark.parametrize(
    "options, want",
    [
        ({"eps": 0}, (0.08650264128, 0.08044401619)),
        ({"eps": 1e-5}, (0.08650261243, 0.0804439878)),
        ({"eps": 0, "mask_norm": "l2"}, (0.1304646967, 0.1310457475)),
    ],
)
def test_masked_losses_of_vector_1(options, want):
    found = ACAMLevel(4, 4, **options).imitation(*first_vector())
    assert [value.item() for value in found] == pytest.approx(want, rel=1e-8)


def test_maskd_normalizer():
    """eps beside the mass, halved; with eps = 0 that is half of ours."""
    aligned, teacher, spatial, channel = first_vector()
    ours = ACAMLevel(4, 4, normalizer="maskd_seg", eps=1e-5).imitation(aligned, teacher, spatial, channel)
    assert ours[0].item() == pytest.approx(0.04325126295, rel=1e-8)
    e = (teacher - aligned).square().sum(1, keepdim=True)
    want = 0.5 * ((spatial**2 * e).sum((2, 3)) / (spatial.sum((2, 3)) + 1e-5)).mean() / 4
    torch.testing.assert_close(ours[0], want)


def test_l2_norm_gains_nothing_from_small_masks():
    aligned, teacher, spatial, channel = first_vector()
    small = ACAMLevel(4, 4, eps=0).imitation(aligned, teacher, 0.1 * spatial, 0.1 * channel)
    assert [v.item() for v in small] == pytest.approx((0.008650264128, 0.008044401619), rel=1e-8)
    level = ACAMLevel(4, 4, eps=0, mask_norm="l2")
    torch.testing.assert_close(
        level.imitation(aligned, teacher, 0.1 * spatial, 0.1 * channel),
        level.imitation(aligned, teacher, spatial, channel),
    )
    zero = level.imitation(aligned, teacher, 0 * spatial, 0 * channel)
    assert [v.item() for v in zero] == [0, 0]


@pytest.mark.parametrize("mask_norm", ["l1", "l2"])
@pytest.mark.parametrize("div", ["ratio_of_sums", "pairwise_mean"])
@pytest.mark.parametrize("shift", [-20.0, -45.0, -60.0, -87.0, -100.0, -200.0])
def test_collapsed_masks_give_finite_gradients(mask_norm, div, shift):
    """Masks that training has shrunk to sigmoid(shift); below -104 they are 0."""
    torch.manual_seed(0)
    level = ACAMLevel(4, 4, num_masks=3, mask_norm=mask_norm, div=div)
    student, teacher = torch.randn(2, 4, 3, 5, requires_grad=True), torch.randn(2, 4, 3, 5)
    logits = [torch.randn(2, 3, 3, 5), torch.randn(2, 3, 4)]
    logits = [(x + shift).requires_grad_() for x in logits]
    spatial, channel = (x.sigmoid() for x in logits)
    loss = sum(level.imitation(student, teacher, spatial, channel)) + level.diversity(spatial, channel)
    loss.backward()
    assert loss.isfinite() and all(x.grad.isfinite().all() for x in (student, *logits))


def gradients(losses, made, student):
    parameters = [student, *made.parameters()]
    return torch.autograd.grad(sum(losses), parameters, allow_unused=True)


@pytest.mark.parametrize("size", [(2, 6, 6, 7, 10, 3), (1, 19, 19, 13, 19, 19), (2, 8, 5, 1, 1, 6)], ids=str)
@pytest.mark.parametrize("plain", [materialised, through_sums])
def test_equals_the_equations_with_every_tensor_in_memory(size, plain):
    student, teacher = maps(size)
    made = level(size[1], size[2], size[5])
    found = made(student, teacher)
    want = plain(made, student, teacher)
    got = found["loss_s"], found["loss_c"], found["loss_div"]
    torch.testing.assert_close(torch.stack(got), torch.stack(want))
    for ours, theirs in zip(gradients(got, made, student), gradients(want, made, student), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype, loss, gradient", [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 1e-3, 1e-2)])
def test_lower_precision_against_float64(dtype, loss, gradient):
    size = (2, 6, 6, 7, 10, 3)
    student, teacher = (x.detach().to(dtype) for x in maps(size))
    exact = level(6, 6, 3)
    made = level(6, 6, 3).to(torch.float32)
    results = []
    for module, kind in ((made, dtype), (exact, torch.float64)):
        leaf = student.to(kind).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16 and kind == dtype):
            found = module.attention(leaf, teacher.to(kind))
            losses = module.imitation(leaf, teacher.to(kind), *found)
        total = sum(losses)
        total.backward()
        results.append((total.double(), leaf.grad.double()))
    (got, slope), (want, truth) = results
    assert abs(got - want) / want < loss
    assert (slope - truth).norm() / truth.norm() < gradient


def test_switches_cut_the_gradients_they_name():
    size = (2, 6, 6, 3, 4, 3)

    def slopes(of, **options):
        student, teacher = maps(size)
        teacher.requires_grad_()
        made = level(6, 6, 3, **options)
        found = made(student, teacher)
        sum(found[name] for name in of).backward()
        assert teacher.grad is None
        return student.grad, made.attention.spatial_units.grad

    assert slopes(["loss_s"], detach_masks=True)[1] is None
    assert slopes(["loss_s", "loss_div"], detach_masks=True)[1] is not None
    assert slopes(["loss_div"], detach_student_in_attention=True)[0] is None
    assert slopes(["loss_div"])[0] is not None
    assert level(6, 6, 3, losses="spatial")(*maps(size))["loss_c"] == 0
    assert level(6, 6, 3, losses="channel")(*maps(size))["loss_s"] == 0
    both, spatial = level(6, 6, 3), level(6, 6, 3, div_masks="spatial")
    assert both(*maps(size))["loss_div"] > spatial(*maps(size))["loss_div"] > 0


def test_pooled_keys_and_values_are_another_finite_loss():
    size = (2, 6, 6, 7, 10, 3)
    exact, pooled = (level(6, 6, 3, kv_pool=pool)(*maps(size))["loss_s"] for pool in (None, 2))
    assert pooled.isfinite() and pooled != exact


def test_identity_alignment_compares_channel_by_channel():
    made = ACAMLevel(4, 4, align_init="identity", detach_masks=True)
    same = torch.randn(2, 4, 5, 6)
    found = made(same, same)
    assert found["loss_s"] == found["loss_c"] == 0
    assert ACAMLevel(4, 4)(same, same)["loss_s"] > 0
