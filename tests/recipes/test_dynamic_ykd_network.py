"""Dynamic Y-KD's network: growth, averages, merged inference, a training step and its traps."""

import copy

import pytest
import torch
from torchvision.ops import nms

from kdfast.recipes.dynamic_ykd import (
    ContinualMaskRCNN,
    ContinualStep,
    MergedMaskRCNN,
    average_heads,
    class_distillation,
    grown,
    sample,
    select,
)

SMALL = {
    "short_side": 64,
    "long_side": 96,
    "anchor_sizes": (16, 32),
    "pool": 4,
    "regions": 16,
    "top": (60, 40),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return ContinualMaskRCNN("mobilenet_v2", 3, **SMALL).eval()


def _map(network):
    z = network.backbone(torch.rand(1, 3, 64, 96))
    return z, [torch.tensor([[1.0, 2.0, 40.0, 50.0]])]


def test_growth_keeps_old_rows(network):
    head = network.head
    made = grown(head, 2)
    torch.testing.assert_close(made.box_predictor.cls_score.weight[:3], head.box_predictor.cls_score.weight)
    torch.testing.assert_close(made.box_predictor.bbox_pred.bias[:12], head.box_predictor.bbox_pred.bias)
    torch.testing.assert_close(
        made.mask_predictor.mask_fcn_logits.weight[:3], head.mask_predictor.mask_fcn_logits.weight
    )
    assert made.num_classes == 5 and head.num_classes == 3
    aligned = torch.randn(2, *network.head.align(*_map(network)).shape[1:])
    old, new = head(aligned), made.eval()(aligned)
    torch.testing.assert_close(new.classes[:, :3], old.classes)
    torch.testing.assert_close(new.masks[:, :3], old.masks)


def test_mib_growth_shares_background(network):
    head = grown(network.head, 2, init="mib").box_predictor.cls_score
    torch.testing.assert_close(head.weight[3:], head.weight[:1].expand(2, -1))
    torch.testing.assert_close(head.bias[3:], head.bias[:1].expand(2) - torch.log(torch.tensor(2.0)))


@pytest.mark.parametrize("rows", ["skip", "shared"])
def test_average_is_between_the_heads(network, rows):
    old, new = network.head, grown(network.head, 1)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(1.0)
    made = average_heads(old, new, 0.25, rows=rows)
    for name, value in made.state_dict().items():
        before, after = old.state_dict()[name], new.state_dict()[name]
        if before.shape == after.shape:
            torch.testing.assert_close(value, 0.25 * before + 0.75 * after)
        else:
            n = len(before)
            expected = 0.25 * before + 0.75 * after[:n] if rows == "shared" else after[:n]
            torch.testing.assert_close(value[:n], expected)
            torch.testing.assert_close(value[n:], after[n:])
    for weight, whole in ((0.0, new), (1.0, old)):
        same = average_heads(old, new, weight, rows="shared").state_dict()["stage4.14.conv.0.0.weight"]
        torch.testing.assert_close(same, whole.state_dict()["stage4.14.conv.0.0.weight"])


def test_sample_takes_all_or_random_ones_of_the_best():
    boxes = torch.arange(200.0)[:, None].expand(200, 4)
    for n, expected in ((0, 0), (10, 10), (63, 63), (64, 64), (100, 64), (200, 64)):
        got = sample(boxes[:n])[:, 0]
        assert len(got) == len(set(got.tolist())) == expected
        assert expected == 0 or got.max() < 128
    torch.manual_seed(3)
    first = sample(boxes)
    torch.manual_seed(3)
    assert torch.equal(first, sample(boxes))


def test_select_drops_other_classes_before_suppression():
    """A strong box of another task neither appears nor suppresses; scores are over all classes."""
    logits = torch.tensor([[0.0, 1.0, 4.0], [0.0, 2.0, 0.0], [5.0, 1.0, 0.0]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [20, 20, 30, 30]])[:, None].expand(3, 3, 4)
    found = select(logits, boxes, (1,), score=0.01, overlap=0.5)
    scores = logits.softmax(1)[:, 1]
    kept = nms(boxes[:, 0], scores, 0.5)
    assert found["labels"].tolist() == [1] * len(kept) and 0 not in kept.tolist()
    torch.testing.assert_close(found["scores"], scores[kept])


def test_merged_inference_takes_each_class_from_its_task(network):
    """With one module a task, the detections of a task are those of that module alone; the cap comes last."""
    torch.manual_seed(1)
    images = [torch.rand(3, 64, 96), torch.rand(3, 64, 80)]
    other = copy.deepcopy(network.backbone.specific)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    modules, tasks = [network.backbone.specific, other], [(1,), (2,)]
    merged = MergedMaskRCNN(network, modules, tasks, score=0.01, most=10**6).eval()(images)
    capped = MergedMaskRCNN(network, modules, tasks, score=0.01, most=7).eval()(images)
    for task in range(2):
        single = MergedMaskRCNN(network, [modules[task]], [tasks[task]], score=0.01, most=10**6).eval()(
            images
        )
        for image in range(2):
            rows = merged[image]["labels"] == tasks[task][0]
            assert rows.any()
            torch.testing.assert_close(merged[image]["scores"][rows], single[image]["scores"])
            torch.testing.assert_close(merged[image]["masks"][rows], single[image]["masks"])
    for whole, best in zip(merged, capped, strict=True):
        torch.testing.assert_close(best["scores"], whole["scores"].topk(7).values)
        torch.testing.assert_close(best["boxes"], whole["boxes"][:7])


def targets(*counts: int, label: int = 3):
    torch.manual_seed(2)
    made = []
    for count in counts:
        low = torch.rand(count, 2) * 30
        boxes = torch.cat([low, low + 15 + torch.rand(count, 2) * 15], 1)
        masks = (torch.rand(count, 64, 96) > 0.5).to(torch.uint8)
        made.append({"boxes": boxes, "labels": torch.full((count,), label), "masks": masks})
    return made


@pytest.mark.parametrize("counts", [(2, 1), (2, 0), (0, 0)], ids=["objects", "one empty", "all empty"])
@pytest.mark.parametrize("masks", [True, False])
def test_step_is_finite_and_reaches_every_parameter(counts, masks):
    torch.manual_seed(0)
    network = ContinualMaskRCNN("mobilenet_v2", 3, masks=masks, **SMALL)
    teacher = copy.deepcopy(network.head)
    network.head = grown(network.head, 1)
    step = ContinualStep(network, teacher=teacher, num_old=2).train()
    losses = step([torch.rand(3, 64, 96)] * 2, targets(*counts))
    assert ("kd_masks" in losses) == masks == ("masks" in losses)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    grads = {name: p.grad for name, p in step.named_parameters() if p.requires_grad}
    assert all(g is not None and g.isfinite().all() for g in grads.values())
    assert not any("shared" in name or "teacher" in name for name in grads)


def test_teacher_gets_no_gradient_and_stays_outside(network):
    teacher = copy.deepcopy(network.head)
    network = copy.deepcopy(network)
    step = ContinualStep(network, teacher=teacher).train()
    assert not any("teacher" in name for name in (*step.state_dict(), *dict(step.named_parameters())))
    losses = step([torch.rand(3, 64, 96)], targets(2, label=2))
    torch.stack([v for k, v in losses.items() if k.startswith("kd_")]).sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert any(p.grad.abs().sum() > 0 for p in network.backbone.specific.parameters())


def test_same_heads_agree():
    """Teacher and student with equal weights: boxes and RPN terms are 0, classes at their smallest."""
    torch.manual_seed(0)
    network = ContinualMaskRCNN("mobilenet_v2", 3, **SMALL)
    step = ContinualStep(network, teacher=copy.deepcopy(network.head)).train()
    losses = step([torch.rand(3, 64, 96)], targets(2, label=1))
    assert losses["kd_boxes"] < 1e-9 and losses["kd_rpn"] < 1e-9


def test_fine_tuning_has_no_distillation(network):
    losses = ContinualStep(copy.deepcopy(network)).train()([torch.rand(3, 64, 96)], targets(1, label=1))
    assert set(losses) == {"rpn_objectness", "rpn_boxes", "classes", "boxes", "masks"}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda n: grown(n.head, 0), "new must be 1 or more"),
        (lambda n: grown(n.head, 1, init="zero"), "init must be"),
        (lambda n: average_heads(n.head, n.head, 1.5), "weight must be in"),
        (lambda n: average_heads(n.head, n.head, 0.5, rows="all"), "rows must be"),
        (lambda n: average_heads(torch.nn.Linear(1, 1), n.head, 0.5), "no tensor of one name"),
        (lambda n: MergedMaskRCNN(n, [n.backbone.specific], [(1,), (2,)]), "one module a task"),
        (
            lambda n: class_distillation(torch.zeros(1, 3), torch.zeros(1, 3), form="kl"),
            "form must be one of",
        ),
    ],
)
def test_bad_input_is_one_sentence(network, call, message):
    with pytest.raises(ValueError, match=message):
        call(network)
