"""The dense-prediction frame: readers and their errors, networks, scores, inheritance, pictures."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdfast.recipes.common.dense import brain, pictures
from kdfast.recipes.common.dense.backbones import dilate, trunk
from kdfast.recipes.common.dense.detection import collate, detection_data, resized
from kdfast.recipes.common.dense.detectors import Neck, check_levels, detect, detector, parts
from kdfast.recipes.common.dense.inherit import inherit
from kdfast.recipes.common.dense.lightning import pixel_loss, sum_of
from kdfast.recipes.common.dense.metrics import average_precision, evaluate_segmenter, in_file_pixels, scores
from kdfast.recipes.common.dense.schedules import sgd_polynomial, sgd_steps
from kdfast.recipes.common.dense.segmentation import segmentation_data
from kdfast.recipes.common.dense.segmenters import segmenter
from kdfast.recipes.common.errors import UserError

SIDES = {"short_side": 48, "long_side": 64}
XML = "<annotation><filename>{0}.jpg</filename>{1}</annotation>"
BOX = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
OBJECT = f"<object><name>{{}}</name>{BOX}</object>"


def picture(path, size=(80, 60)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 128, np.uint8)).save(path)


@pytest.fixture
def voc(tmp_path):
    """Three images: one plain, one with a box beyond the border and one without area, one without boxes."""
    objects = {
        "a": OBJECT.format("cat", 10, 10, 50, 40) + OBJECT.format("dog", 0, 0, 20, 20),
        "b": OBJECT.format("cat", 60, 40, 100, 90) + OBJECT.format("dog", 7, 7, 7, 7),
        "c": "",
    }
    for name, text in objects.items():
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(XML.format(name, text))
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for part in ("train", "val", "test"):
        (tmp_path / "ImageSets" / "Main" / f"{part}.txt").write_text("a\nb\nc\n")
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    """A writer of a COCO folder; `change` edits the json before it is written."""

    def write(change=lambda content: None):
        content = {
            "images": [{"id": 7, "file_name": "a.jpg", "height": 60, "width": 80}],
            "categories": [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 9, "bbox": [10, 10, 40, 30],
                 "segmentation": [[10, 10, 50, 10, 50, 40, 10, 40]]},
                {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1,
                 "segmentation": {"size": [60, 80], "counts": [0, 5, 4795]}},
            ],
        }  # fmt: skip
        change(content)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for part in ("train", "val"):
            picture(tmp_path / "images" / "a.jpg")
            (tmp_path / "annotations" / f"{part}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_voc_boxes_are_cut_and_those_without_area_left_out(voc):
    data = detection_data("voc", voc, **SIDES)
    assert data.classes == ("cat", "dog") and len(data.train) == 3
    image, target = data.validation[1]
    assert image.shape == (3, 48, 64) and target["labels"].tolist() == [1]
    assert target["boxes"][0].tolist() == pytest.approx([48, 32, 64, 48])  # 60..80 x 40..60, scaled by 0.8
    assert data.validation[2][1]["boxes"].shape == (0, 4)
    assert any("cut at" in line for line in data.findings) and any("without area" in f for f in data.findings)
    assert len(detection_data("voc", voc, **SIDES, keep_empty=False).train) == 2


def test_flip_mirrors_boxes_and_pixels(voc):
    data = detection_data("voc", voc, **SIDES)
    seen = {tuple(data.train[0][1]["boxes"][0].tolist()) for _ in range(20)}
    assert seen == {(8.0, 8.0, 40.0, 32.0), (24.0, 8.0, 56.0, 32.0)}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("Annotations/a.xml", "<annotation><object>", "cannot be read as a VOC annotation"),
        ("Annotations/a.xml", "<svg/>", "its root is <svg>"),
        ("Annotations/a.xml", XML.format("a", "<object><name>cat</name></object>"), "no bndbox"),
        ("Annotations/a.xml", XML.format("a", OBJECT.format("cat", "x", 1, 2, 2)), "a number is needed"),
        ("Annotations/a.xml", XML.format("a", OBJECT.format("cat", "nan", 1, 2, 2)), "not a finite number"),
        ("Annotations/a.xml", XML.format("a", OBJECT.format("cat", 9, 1, 2, 2)), "ends before it begins"),
        ("Annotations/a.xml", XML.format("a", OBJECT.format("cow", 0, 1, 2, 2)), "the classes are cat, dog"),
        ("JPEGImages/a.jpg", "no image", "cannot be read as an image"),
        ("ImageSets/Main/val.txt", "", "is empty"),
        ("ImageSets/Main/val.txt", "zzz", "zzz"),
    ],
)
def test_wrong_voc_folder_is_one_sentence(voc, name, content, words):
    (voc / name).write_text(content)
    with pytest.raises(UserError, match=words) as raised:
        detection_data("voc", voc, **SIDES, classes=("cat", "dog"))
    assert "\n" not in str(raised.value)


def test_skip_bad_leaves_unreadable_images_out(voc):
    (voc / "Annotations" / "a.xml").write_text("<annotation>")
    data = detection_data("voc", voc, **SIDES, classes=("cat", "dog"), skip_bad=True)
    assert len(data.train) == 2 and any("could not be read" in line for line in data.findings)


def test_image_that_disagrees_with_its_annotation_is_named(coco):
    root = coco(lambda content: content["images"][0].update(width=999))
    with pytest.raises(UserError, match=r"a.jpg cannot be read: the image is 80 x 60, its annotation says"):
        detection_data("coco", root, **SIDES).train[0]


def test_coco_boxes_crowds_and_masks(coco):
    data = detection_data("coco", coco(), **SIDES, masks=True)
    _, target = data.validation[0]
    assert data.classes == ("cat", "dog") and "tested on the validation" in data.source
    assert target["labels"].tolist() == [2, 1] and target["iscrowd"].tolist() == [0, 1]
    assert target["masks"][0].sum() == pytest.approx(0.64 * 40 * 30, rel=0.1)
    assert data.train[0][1]["labels"].tolist() == [2]  # crowds are not trained on
    assert detection_data("coco", coco(), **SIDES, classes=("dog",)).train[0][1]["labels"].tolist() == [1]


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.pop("images"), "has no list 'images'"),
        (lambda c: c["annotations"][0].pop("bbox"), "lacks 'bbox'"),
        (lambda c: c["annotations"][0].update(image_id=8), "belongs to image 8"),
        (lambda c: c["annotations"][0].update(category_id=8), "has category 8"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "width, height"),
        (lambda c: c["annotations"][0].pop("segmentation"), "has no segmentation"),
    ],
)
def test_wrong_coco_file_is_one_sentence(coco, change, words):
    with pytest.raises(UserError, match=words):
        detection_data("coco", coco(change), **SIDES, masks=True)


def test_kitti_lines(tmp_path):
    line = "{} 0.00 0 1.8 10 10 50 40 1 1 1 1 1 1 0\n"
    for number in range(60):
        picture(tmp_path / "training" / "image_2" / f"{number:06}.png")
        path = tmp_path / "training" / "label_2" / f"{number:06}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(line.format("Cyclist") + line.format("DontCare"))
    data = detection_data("kitti", tmp_path, **SIDES)
    assert data.train[0][1]["labels"].tolist() == [3]
    assert len(data.train) + len(data.validation) + len(data.test) == 60 and len(data.train) > 36
    path.write_text("Horse 1 2 3\n")
    with pytest.raises(UserError, match="line 1 is no KITTI label"):
        detection_data("kitti", tmp_path, **SIDES)


@pytest.mark.parametrize("layout", ["voc", "coco", "kitti"])
def test_missing_folders_are_one_sentence(tmp_path, layout):
    for root in (None, tmp_path / "nothing", tmp_path):
        with pytest.raises(UserError):
            detection_data(layout, root, **SIDES)


def test_blood_cells(need):
    need.data("bccd", "BCCD")
    data = detection_data("bccd", None, **SIDES)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [205, 87, 72]
    assert data.findings == ["2 boxes without area (in the image) left out (first: BloodImage_00343.jpg)."]


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


def write_labels(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def test_segmentation_folder_and_its_errors(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nearth\n")
    values = np.zeros((60, 80))
    values[30:] = 1
    for part in ("train", "val"):
        picture(tmp_path / "images" / part / "a.jpg")
        write_labels(tmp_path / "labels" / part / "a.png", values)
    data = segmentation_data("folder", tmp_path, size=(30, 40), crop=(24, 24))
    image, labels = data.train[0]
    assert image.shape == (3, 24, 24) and labels.dtype == torch.int64
    assert set(data.validation[0][1].unique().tolist()) == {0, 1}
    write_labels(tmp_path / "labels" / "train" / "a.png", values + 1)
    with pytest.raises(UserError, match="label 2 is none of the 2 classes"):
        segmentation_data("folder", tmp_path, size=(30, 40)).train[0]
    write_labels(tmp_path / "labels" / "train" / "a.png", values[:9])
    with pytest.raises(UserError, match="its labels are"):
        segmentation_data("folder", tmp_path, size=(30, 40)).train[0]
    (tmp_path / "labels" / "train" / "a.png").unlink()
    with pytest.raises(UserError, match="every image needs its labels"):
        segmentation_data("folder", tmp_path)


def test_cityscapes_and_voc_layouts(tmp_path):
    values = np.full((60, 80), 7)
    values[:, 40:] = 33
    values[0] = 3
    for part in ("train", "val"):
        picture(tmp_path / "leftImg8bit" / part / "ulm" / "ulm_0_leftImg8bit.png")
        write_labels(tmp_path / "gtFine" / part / "ulm" / "ulm_0_gtFine_labelIds.png", values)
    data = segmentation_data("cityscapes", tmp_path, size=(60, 80))
    assert len(data.classes) == 19
    assert data.validation[0][1].unique().tolist() == [0, 18, 255]
    with pytest.raises(UserError, match="ImageSets/Segmentation"):
        segmentation_data("voc", tmp_path)


def test_brain_slices_of_the_parts_are_apart(need):
    try:
        slices = brain.slices()
    except UserError as reason:
        need.that(False, str(reason))
    numbers = {part: [number for number, _ in each] for part, each in slices.items()}
    assert all(len(each) >= 20 for each in numbers.values())
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert min(abs(i - j) for i in numbers[a] for j in numbers[b]) >= 2
    data = segmentation_data("brain", None, size=(64, 64))  # 9 classes, and 255 beside a shrunken image
    assert len(torch.cat([data.train[i][1].unique() for i in range(len(data.train))]).unique()) == 10


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
    assert pictures.heat_over(image, torch.rand(2, 3)).shape == (16, 24, 3)


def test_sizes():
    assert resized(480, 640, 144, 192) == (144, 192)
    assert resized(100, 1000, 144, 192) == (19, 192)
    image, target = torch.rand(3, 4, 4), {"boxes": torch.zeros(0, 4)}
    assert collate([(image, target)] * 2)[0][1] is image
