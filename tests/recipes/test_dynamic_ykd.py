"""Dynamic Y-KD: scenarios, and the losses against their equations and the published vectors."""

import pytest
import torch

from kdfast.recipes.dynamic_ykd import (
    Proposals,
    RoIOutputs,
    class_distillation,
    distillation,
    plain,
    region_losses,
    steps,
)


def sines(shape, phase, size):
    """The published vectors' inputs: size * sin(i + phase), i = 1, 2, ... in row-major order."""
    count = torch.tensor(shape).prod().item()
    return (size * torch.sin(torch.arange(1, count + 1, dtype=torch.float64) + phase)).view(shape)


@pytest.fixture
def published():
    student = RoIOutputs(sines((4, 5), 0.3, 2), sines((4, 5, 4), 1.1, 1), sines((4, 5, 2, 2), 0.9, 3))
    teacher = RoIOutputs(sines((4, 3), 0, 2), sines((4, 3, 4), 0.7, 1), sines((4, 3, 2, 2), 0.2, 3))
    rpn_s = Proposals(sines((1, 2, 2, 3), 1.9, 1), sines((1, 8, 2, 3), 2.2, 1), [], [])
    rpn_t = Proposals(sines((1, 2, 2, 3), 0.4, 1), sines((1, 8, 2, 3), 0.1, 1), [], [])
    for tensor in (*student, *rpn_s[:2]):
        tensor.requires_grad_()
    return student, teacher, rpn_s, rpn_t


def test_distillation_has_the_published_values(published):
    student, teacher, rpn_s, rpn_t = published
    terms = distillation(student, teacher, rpn_s, rpn_t)
    expected = {
        "kd_classes": (0.524867173667, student.classes, 0.240150888601),
        "kd_boxes": (3.93726435598, student.boxes, 6.43079391489),
        "kd_masks": (1.09582431479, student.masks, 0.381687825098),
        "kd_rpn": (0.488691196929 + 2.98745746142, rpn_s.objectness, 0.927729161847),
    }
    assert set(terms) == set(expected)
    sum(terms.values()).backward()
    for name, (value, tensor, size) in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-9), name
        assert tensor.grad.abs().sum().item() == pytest.approx(size, rel=1e-9), name
    assert rpn_s.deltas.grad.abs().sum().item() == pytest.approx(4.41602031267, rel=1e-9)


def test_l2_form_has_the_published_value(published):
    student, teacher = published[0].classes, published[1].classes
    loss = class_distillation(student, teacher, form="l2")
    loss.backward()
    assert loss.item() == pytest.approx(1.74985535843, rel=1e-9)
    assert student.grad.abs().sum().item() == pytest.approx(2.34818765883, rel=1e-9)
    first = torch.tensor([0.152722129064, 0.057495657311, 0.012404494793]).double()
    torch.testing.assert_close(student.grad.flatten()[:3], first, rtol=1e-6, atol=0)


def test_unbiased_cross_entropy_has_the_published_value(published):
    logits, labels = published[0].classes, torch.tensor([0, 3, 4, 0])
    deltas = torch.zeros(4, 4).double()
    loss = region_losses(logits, published[0].boxes, labels, deltas, num_old=2)["classes"]
    loss.backward()
    assert loss.item() == pytest.approx(1.70567739829, rel=1e-9)
    assert logits.grad.abs().sum().item() == pytest.approx(1.35053814304, rel=1e-9)


def test_other_forms_are_their_equations():
    torch.manual_seed(0)
    s, t = torch.randn(6, 5).double(), torch.randn(6, 3).double()
    q = t.softmax(1)
    cut, whole = s[:, :3].log_softmax(1), s.log_softmax(1)[:, :3]
    assert class_distillation(s, t, form="ce").item() == pytest.approx(-(q * cut).mean().item())
    assert class_distillation(s, t, form="ce_ada").item() == pytest.approx(-(q * cut).sum(1).mean().item())
    assert class_distillation(s, t, form="ce_all").item() == pytest.approx(-(q * whole).mean().item())


@pytest.mark.parametrize("form", ["uce", "l2", "ce", "ce_ada", "ce_all"])
@pytest.mark.parametrize("new", [0, 2])
def test_class_distillation_without_regions_or_new_classes(form, new):
    for regions in (0, 3):
        student = torch.randn(regions, 3 + new).requires_grad_()
        loss = class_distillation(student, torch.randn(regions, 3), form=form)
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all()
        assert regions or loss == 0


def test_box_loss_of_regions_is_smooth_l1_of_the_labelled_class():
    torch.manual_seed(0)
    boxes, deltas, labels = torch.randn(5, 3, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    found = region_losses(torch.randn(5, 3), boxes, labels, deltas)["boxes"]
    distance = [(boxes[i, labels[i]] - deltas[i]).abs() for i in (1, 2, 4)]
    expected = sum(torch.where(d < 1, d * d / 2, d - 0.5).sum() for d in distance) / 5
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "scenario, classes, sizes",
    [("19-1", 20, [19, 1]), ("15-5", 20, [15, 5]), ("15-1", 20, [15] + [1] * 5), ("10-2", 20, [10] + [2] * 5),
     ("10-5", 20, [10, 5, 5]), ("10-10", 20, [10, 10]), ("2-1", 3, [2, 1])],
)  # fmt: skip
def test_scenarios(scenario, classes, sizes):
    found = steps(scenario, classes)
    assert [len(step.new) for step in found] == sizes
    assert found[-1].seen == tuple(range(1, classes + 1)) and found[0].old == ()
    assert all(later.old == earlier.seen for earlier, later in zip(found, found[1:], strict=False))


@pytest.mark.parametrize("scenario", ["15", "a-b", "0-1", "20-0", "15-2", "20-1", "21-1"])
def test_bad_scenarios_are_one_sentence(scenario):
    with pytest.raises(ValueError, match="scenario"):
        steps(scenario, 20)


def test_plain_form_agrees(published):
    student, teacher, rpn_s, rpn_t = published
    expected = sum(distillation(student, teacher, rpn_s, rpn_t).values())
    assert plain.distillation(student, teacher, rpn_s, rpn_t).item() == pytest.approx(expected.item())
