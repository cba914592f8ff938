"""The dense-prediction frame: networks, scores, schedules, inheritance, pictures."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from kdfast.recipes.common.dense import pictures
from kdfast.recipes.common.dense.backbones import dilate, trunk
from kdfast.recipes.common.dense.detectors import Neck, check_levels, detect, detector, parts
from kdfast.recipes.common.dense.inherit import inherit
from kdfast.recipes.common.dense.lightning import pixel_loss, sum_of
from kdfast.recipes.common.dense.metrics import average_precision, evaluate_segmenter, in_file_pixels, scores
from kdfast.recipes.common.dense.schedules import sgd_polynomial, sgd_steps
from kdfast.recipes.common.dense.segmenters import segmenter

SIDES = {"short_side": 48, "long_side": 64}


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "faster_rcnn", "mask_rcnn"])
def test_detectors_train_and_detect_also_without_boxes(kind):
    torch.manual_seed(0)
    size = {**SIDES, "fpn_channels": 32, "extra_levels": kind == "retinanet", "anchor_scale": 0.5}
    few = {"box_detections_per_img": 5} if "rcnn" in kind else {}
    network = detector(kind, "mobilenet_v2_0.25", 2, **size, **few)
    image = torch.rand(3, 48, 64)
    full = {"boxes": torch.tensor([[8.0, 8, 40, 32]]), "labels": torch.tensor([2])}
    full["masks"] = torch.ones(1, 48, 64, dtype=torch.uint8)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty["masks"] = torch.zeros(0, 48, 64, dtype=torch.uint8)
    for targets in ([full, empty], [empty, empty]):
        loss = sum_of(network.train()([image, image], targets))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    found = detect(network, [image])[0]
    assert found["boxes"].shape[1] == 4 and set(parts(network)) <= {
        name for name, _ in network.named_modules()
    }


def test_neck_gives_the_levels_of_the_whole_detector():
    network = detector("retinanet", "resnet10", 1, **SIDES, fpn_channels=8).eval()
    levels = Neck(network)([torch.rand(3, 48, 64)])
    assert list(levels) == ["0", "1", "2", "p6", "p7"] and levels["0"].shape == (1, 8, 8, 8)
    check_levels(levels, levels)
    with pytest.raises(ValueError, match="the student has levels"):
        check_levels({"0": levels["0"]}, levels)
    with pytest.raises(ValueError, match="level '0' is"):
        check_levels({**levels, "0": levels["1"]}, levels)


def test_inherit_copies_what_fits():
    teacher, student = (
        detector("retinanet", name, 2, **SIDES, fpn_channels=8, extra_levels=False)
        for name in ("resnet18", "mobilenet_v2_0.25")
    )
    copied, left = inherit(student, teacher, parts(student))
    assert "head.classification_head.cls_logits.weight" in copied
    assert [name for name in left if "inner_blocks" in name] == [n for n in left if n.endswith("weight")]
    ours, theirs = student.state_dict(), teacher.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in copied)
    with pytest.raises(ValueError, match="the student has no tensor under it"):
        inherit(student, teacher, ["nose"])
    with pytest.raises(ValueError, match="same shape"):
        inherit(nn.ModuleDict({"a": nn.Linear(2, 2)}), nn.ModuleDict({"a": nn.Linear(3, 3)}), ["a"])


def test_perfect_detections_score_one_in_file_pixels():
    targets = [{"boxes": torch.tensor([[4.0, 4, 24, 24]]), "labels": torch.tensor([1])}]
    targets[0] |= {"iscrowd": torch.zeros(1, dtype=torch.int64)}
    targets[0] |= {"size": torch.tensor([120, 160]), "input_size": torch.tensor([60, 80])}
    found = [{"boxes": targets[0]["boxes"], "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}]
    metric = average_precision(per_class=True)
    metric.update(*in_file_pixels(found, targets))
    result = scores(metric, ("cat",))
    assert result["AP"] == result["AP_m"] == result["AP cat"] == pytest.approx(1)  # 40 x 40 in the file
    assert math.isnan(result["AP_s"])
    found[0]["boxes"] = torch.full((1, 4), math.nan)
    metric.reset()
    metric.update(*in_file_pixels(found, targets))
    assert scores(metric)["AP"] == 0


@pytest.mark.parametrize("kind", ["deeplabv3", "pspnet", "fcn"])
@pytest.mark.parametrize("backbone", ["resnet10", "mobilenet_v2_0.25", "mobilenet_v3_small"])
def test_segmenters_keep_the_output_stride(kind, backbone):
    network = segmenter(kind, backbone, 4, output_stride=8, width=8, auxiliary=True).train()
    images = torch.rand(2, 3, 64, 48)
    logits = network.classifier(network.backbone(images)["out"])
    assert logits.shape == (2, 4, 8, 6)
    output = network(images)
    assert output["out"].shape == output["aux"].shape == (2, 4, 64, 48)
    loss = pixel_loss(output, torch.full((2, 64, 48), 255))
    loss.backward()
    assert loss == 0 and "aux" not in network.eval()(images)


def test_dilation_keeps_weights_and_values_of_the_first_pixel():
    """A dilated ResNet computes, at the positions it shares with the strided one, the same features."""
    torch.manual_seed(0)
    base = trunk("resnet10")
    body = nn.Sequential(
        *(getattr(base.body, n) for n in ("conv1", "bn1", "relu", "maxpool", *base.stages))
    ).eval()
    image = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        strided = body(image)
        dilate(base.body, base.stages, 8)
        dense = body(image)
    assert dense.shape[2:] == (12, 12) and strided.shape[2:] == (3, 3)
    torch.testing.assert_close(dense[:, :, ::4, ::4], strided, rtol=1e-4, atol=1e-5)


def test_segmenter_scores():
    class Perfect(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            return {"out": torch.cat([1 - images[:, :1], images[:, :1]], 1)}

    labels = (torch.rand(4, 8, 8) > 0.5).long()
    samples = [(label.float().expand(3, -1, -1), label) for label in labels]
    assert evaluate_segmenter(Perfect(), samples, ("a", "b"))["mIoU"] == 1


def test_schedules():
    parameter = [nn.Parameter(torch.zeros(1))]

    def rates(optimize, steps):
        made = optimize(parameter, steps)
        schedule = made["lr_scheduler"]["scheduler"]
        values = []
        for _ in range(steps):
            values.append(made["optimizer"].param_groups[0]["lr"])
            made["optimizer"].step()
            schedule.step()
        return values

    stepped = rates(sgd_steps(1.0, warmup=5), 120)
    assert stepped[0] == pytest.approx(0.2) and stepped[5] == 1
    assert stepped[80] == pytest.approx(0.1) and stepped[-1] == pytest.approx(0.01)
    poly = rates(sgd_polynomial(0.02), 100)
    assert poly[0] == 0.02 and poly[50] == pytest.approx(0.02 * 0.5**0.9) and min(poly) >= 1e-4


def test_pictures():
    image = torch.rand(3, 8, 12)
    found = {
        "boxes": torch.tensor([[1.0, 1, 6, 6]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
    }
    assert pictures.boxes_over(image, found, ("cat",)).shape == (16, 24, 3)
    found["masks"] = torch.ones(1, 1, 8, 12)
    assert pictures.boxes_over(image, found, ("cat",)).dtype == np.uint8
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert pictures.boxes_over(image, nothing, ("cat",)).shape == (16, 24, 3)
    assert pictures.labels_over(image, torch.randint(0, 3, (8, 12)), 3).shape == (16, 24, 3)
    assert pictures.legend(("cat", "dog", "cow")) == "cat red, dog blue, cow lime"
    assert len({word.split()[-1] for word in pictures.legend("abcdefghi").split(", ")}) == 9
    assert pictures.row_height(np.zeros((10, 20, 3)), 3) == 150
    assert pictures.heat_over(image, torch.rand(2, 3)).shape == (16, 24, 3)
