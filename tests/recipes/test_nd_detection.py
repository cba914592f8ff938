"""The detection form of ND: against its equations, its errors, and a run on drawn squares."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import kdfast.functional as KF
from kdfast.cli import main
from kdfast.recipes.common.dense.detectors import detector
from kdfast.recipes.nd.detection import NDDetector, box_features, region_means, sample_regions


def faster(backbone: str = "resnet10", classes: int = 2, side: int = 64):
    return detector("faster_rcnn", backbone, classes, short_side=side, long_side=side, fpn_channels=16)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return faster(), faster()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    boxes = torch.tensor([[8.0, 8, 30, 30], [20, 20, 60, 50]])
    return [torch.rand(3, 64, 64)], [{"boxes": boxes, "labels": torch.tensor([1, 2])}]


def test_losses_are_the_equations_on_the_students_regions(pair, batch):
    """The same sampling, replayed: detector's losses, KL of all regions, ND with background as class 0."""
    student, teacher = pair
    means = torch.rand(3, 1024)
    model = NDDetector(student, teacher, means, kd_weight=2.0, nd_weight=1.5, temperature=2.0).train()
    torch.manual_seed(5)
    losses = model(*batch)
    torch.manual_seed(5)
    for module in student.modules():  # batch norm has moved on; its batch statistics are what counts
        module.training = True
    images, targets = student.transform(*batch)
    regions, _ = sample_regions(student, images, targets)
    assert (regions.labels == 0).any() and (regions.labels > 0).any()
    ours = box_features(student, regions.levels, regions)
    logits, _ = student.roi_heads.box_predictor(ours)
    with torch.no_grad():
        guide = box_features(teacher, teacher.backbone(images.tensors), regions)
        soft, _ = teacher.roi_heads.box_predictor(guide)
    norms = torch.maximum(ours.norm(dim=1), guide.norm(dim=1))
    direction = F.normalize(means, dim=1)[regions.labels]
    nd = (1 - (ours * direction).sum(1) / norms).mean()
    torch.testing.assert_close(losses["nd"], 1.5 * nd)
    torch.testing.assert_close(losses["kd"], 2.0 * KF.kl_div(logits, soft, temperature=2.0))
    torch.testing.assert_close(losses["loss_classifier"], F.cross_entropy(logits, regions.labels))
    assert set(losses) == {
        "loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "kd", "nd",
    }  # fmt: skip


@pytest.mark.parametrize("review", [False, True])
def test_only_the_student_learns(pair, batch, review):
    student, teacher = pair
    model = NDDetector(student, teacher, torch.rand(3, 1024), review=review).train()
    sum(model(*batch).values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.backbone.body.conv1.weight.grad is not None
    assert not any("teacher" in name for name in model.state_dict())
    assert not teacher.training and model.training
    if review:
        assert model.review.fusions[0].expand[0].weight.grad is not None
    student.zero_grad()


def test_region_means_are_of_sampled_regions(pair, batch):
    means = region_means(pair[1], [batch])
    assert means.compute().shape == (3, 1024)
    assert means.counts[0] > 0 and means.counts.sum() <= 512


def test_pairs_that_do_not_fit(pair):
    with pytest.raises(ValueError, match="has 2 classes and the teacher 4"):
        NDDetector(pair[0], faster(classes=4), torch.rand(5, 1024))
    with pytest.raises(ValueError, match=r"class_means is \[2, 1024\]; \[3, 1024\] is needed"):
        NDDetector(*pair, torch.rand(2, 1024))
    with pytest.raises(ValueError, match="min_size"):
        NDDetector(pair[0], faster(side=96), torch.rand(3, 1024))


@pytest.fixture
def squares(tmp_path):
    """A COCO folder of light squares and dark ones."""
    draw = np.random.default_rng(0)
    root = tmp_path / "coco"
    for split, count in (("train", 6), ("val", 2)):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "annotations").mkdir(exist_ok=True)
        table = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n} for i, n in ((1, "dark"), (2, "light"))],
        }
        for number in range(count):
            pixels = np.full((64, 64, 3), 128, np.uint8)
            x, y = (int(v) for v in draw.integers(2, 30, 2))
            kind = 1 + number % 2
            pixels[y : y + 24, x : x + 24] = 20 if kind == 1 else 240
            name = f"{split}{number}.png"
            Image.fromarray(pixels).save(root / "images" / name)
            table["images"].append({"id": number, "file_name": name, "height": 64, "width": 64})
            box = {"category_id": kind, "bbox": [x, y, 24, 24], "area": 576, "iscrowd": 0}
            table["annotations"].append({"id": number, "image_id": number} | box)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(table))
    return root


@pytest.mark.slow
def test_run_and_resume_to_the_bit(squares, tmp_path):
    arguments = [
        "--data", "coco", "--data-root", str(squares), "--teacher-backbone", "resnet10",
        "--backbone", "resnet10", "--short-side", "64", "--long-side", "64", "--fpn-channels", "16",
        "--teacher-epochs", "1", "--epochs", "1", "--device", "cpu", "--threads", "1", "--progress", "none",
        "--method", "reviewkd++",
    ]  # fmt: skip
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main(["distill", "nd_detection", *arguments, "--out", str(straight)]) == 0
    page = (straight / "report.html").read_text()
    assert "distilled student" in page and "plain PyTorch" in page
    (resumed / "checkpoint").mkdir(parents=True)
    for name in (
        "config.yaml",
        "region-means.safetensors",
        "checkpoint/teacher.ckpt",
        "checkpoint/student-0.ckpt",
    ):
        (resumed / name).write_bytes((straight / name).read_bytes())
    assert main(["distill", "nd_detection", "--resume", str(resumed)]) == 0
    assert (resumed / "student.safetensors").read_bytes() == (straight / "student.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--teacher-epochs", "0"], "--teacher-weights"), (["--short-side", "900"], "--short-side"),
     (["--data", "coco"], "folder"), (["--backbone", "vgg"], "vgg")],
)  # fmt: skip
def test_bad_options_are_one_line(given, message, tmp_path, capsys):
    assert main(["distill", "nd_detection", *given, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
