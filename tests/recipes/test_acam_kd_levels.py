"""ACAM-KD over levels: their sum, shared parameters, padding, empty maps, bad input."""

import math

import pytest
import torch

from kdfast.recipes.acam_kd import ACAMDistiller, ACAMTerm
from kdfast.recipes.acam_kd.method import inside


def test_sums_over_levels_and_weights():
    torch.manual_seed(0)
    made = ACAMDistiller([8, 8], [4, 6], num_masks=3, alpha=2.0, lambda_div=0.5, levels=["p3", "p4"])
    student = {"p3": torch.randn(2, 4, 6, 5), "p4": torch.randn(2, 6, 3, 2)}
    teacher = {name: torch.randn(2, 8, *x.shape[2:]) for name, x in student.items()}
    found = made(student, teacher)
    total = sum(found[f"{key}/{name}"] * w for name in student for key, w in
                (("loss_s", 2.0), ("loss_c", 2.0), ("loss_div", 0.5)))  # fmt: skip
    torch.testing.assert_close(found["loss"], total)
    assert found["spatial_mean/p3"].item() == pytest.approx(0.5, abs=0.1)  # units start near 0
    assert set(made.masks(student, teacher)) == {"p3", "p4"}
    torch.testing.assert_close(made(list(student.values()), list(teacher.values()))["loss"], found["loss"])


@pytest.mark.parametrize("shared, attentions, units", [("none", 2, 2), ("units", 2, 1), ("all", 1, 1)])
def test_shared_per_levelare_one(shared, attentions, units):
    made = ACAMDistiller([8, 8], [8, 8], shared=shared)
    assert len({id(each.attention) for each in made.per_level}) == attentions
    assert len({id(each.attention.spatial_units) for each in made.per_level}) == units


@pytest.mark.parametrize("losses", ["both", "spatial", "channel"])
@pytest.mark.parametrize("div_masks", ["both", "spatial"])
@pytest.mark.parametrize("detach", [False, True])
def test_every_parameter_is_in_the_graph(losses, div_masks, detach):
    """DDP stops at a parameter without a gradient."""
    made = ACAMDistiller(8, num_masks=3, losses=losses, div_masks=div_masks, detach_masks=detach)
    made(torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4))["loss"].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_padding_counts_nowhere():
    torch.manual_seed(0)
    made = ACAMDistiller(8, num_masks=3)
    student, teacher = torch.randn(2, 8, 4, 6), torch.randn(2, 8, 4, 6)
    valid = torch.ones(2, 4, 6, dtype=torch.bool)
    valid[:, 3:], valid[:, :, 4:] = False, False
    before = made(student, teacher, [valid])
    student[:, :, 3:], teacher[:, :, :, 4:] = math.nan, 1e30
    after = made(student, teacher, [valid])
    torch.testing.assert_close(after["loss_s"], before["loss_s"])
    torch.testing.assert_close(after["loss_div"], before["loss_div"])


def test_positions_beside_an_image_are_padding():
    sizes = torch.tensor([[64, 40], [33, 96]])  # padded to 64 x 96
    found = inside(sizes, (8, 12))
    assert found.shape == (2, 8, 12)
    assert found[0].all(0).tolist() == [True] * 5 + [False] * 7 and found[0].any(1).all()
    assert found[1].all(1).tolist() == [True] * 5 + [False] * 3  # row 4 begins at 32, inside
    term = ACAMTerm(ACAMDistiller([8], num_masks=3))
    target = [{"input_size": size} for size in sizes]
    student, teacher = {"0": torch.randn(2, 8, 8, 12)}, {"0": torch.randn(2, 8, 8, 12)}
    before = term(student, teacher, target)
    student["0"][0, :, :, 5:] = 1e6
    torch.testing.assert_close(term(student, teacher, target), before)
    assert term(student, teacher) > 1e3 * before


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_and_constant_maps_are_finite(batch):
    made = ACAMDistiller([8, 8], num_masks=3)
    student = [
        torch.zeros(batch, 8, 3, 2, requires_grad=True),
        torch.zeros(batch, 8, 1, 1, requires_grad=True),
    ]
    found = made(student, [torch.zeros(batch, 8, 3, 2), torch.zeros(batch, 8, 1, 1)])
    found["loss"].backward()
    assert all(value.isfinite() for value in found.values())
    assert all(p.grad.isfinite().all() for p in (*student, *made.parameters()) if p.grad is not None)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: ACAMDistiller([8, 8], [8]), "student_channels has 1 levels and channels 2"),
        (lambda: ACAMDistiller([]), "channels is empty"),
        (lambda: ACAMDistiller(8, shared="some"), "shared must be one of"),
        (lambda: ACAMDistiller([8, 4], shared="all"), "needs equal channels"),
        (lambda: ACAMDistiller(8, alpha=-1), "alpha must be 0 or more"),
        (lambda: ACAMDistiller(8, div="dice"), "div must be one of"),
        (lambda: ACAMDistiller(8, mask_norm="l3"), "mask_norm must be one of"),
        (lambda: ACAMDistiller(8, eps=math.nan), "eps must be 0 or more"),
        (lambda: ACAMDistiller(8, num_masks=0), "num_masks"),
        (lambda: ACAMDistiller([8, 8])([torch.ones(1, 8, 2, 2)], [torch.ones(1, 8, 2, 2)] * 2), "levels"),
        (lambda: ACAMDistiller(8)(torch.ones(1, 8, 2, 2), torch.ones(1, 8, 3, 2)), "level '0' is"),
    ],
)
def test_bad_input(build, words):
    with pytest.raises(ValueError, match=words):
        build()
