"""The dense-prediction frame: readers of VOC, COCO, KITTI, Cityscapes and plain folders, and their errors."""

import json
import math

import coco_folder
import numpy as np
import pytest
import torch
from PIL import Image

from kdfast.recipes.common.dense import brain
from kdfast.recipes.common.dense.brain_instances import pieces
from kdfast.recipes.common.dense.detection import detection_data
from kdfast.recipes.common.dense.detection_set import collate, resized
from kdfast.recipes.common.dense.segmentation import segmentation_data
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
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), "ends before it begins"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, math.nan, 4]), "not a finite number"),
        (lambda c: c["annotations"][0].update(category_id=[1]), r"has category \[1\]"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]),
            "polygons .* are needed",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [9, 9], "counts": [81]}),
            "need counts and size",
        ),
        (lambda c: c["images"][0].update(height="60"), "a height and a width of whole pixels"),
        (lambda c: c["images"][0].update(file_name=None), "file_name of image .* must be text"),
        (lambda c: c["images"].append(c["images"][0]), "'images' has two entries with id"),
        (lambda c: c["categories"].append({"id": 4, "name": "cat"}), "two entries with name 'cat'"),
        (lambda c: c["categories"].append({"id": "9", "name": "cow"}), "ids of 'categories' are numbers and"),
        (lambda c: c["categories"][0].update(id=None), "has id None; a whole number or text is needed"),
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
    with pytest.raises(UserError, match="KITTI has no class 'Lorry'; it has Car, Pedestrian"):
        detection_data("kitti", tmp_path, **SIDES, classes=("Lorry",))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as KITTI labels"):
        detection_data("kitti", tmp_path, **SIDES)


def test_kitti_leaves_broken_files_out(tmp_path):
    root = coco_folder.as_kitti(tmp_path)
    whole = detection_data("kitti", root, **SIDES)
    (root / "training" / "image_2" / "train0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="train0.png cannot be read as an image"):
        detection_data("kitti", root, **SIDES)
    data = detection_data("kitti", root, **SIDES, skip_bad=True)
    left = [sum(map(len, (each.train, each.validation, each.test))) for each in (whole, data)]
    assert left[1] == left[0] - 1
    assert data.findings == ["1 images left out that could not be read (first: train0)."]


def test_a_class_has_one_label(coco):
    with pytest.raises(UserError, match="class 'cat' is named twice"):
        detection_data("coco", coco(), **SIDES, classes=("cat", "dog", "cat"))


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


def test_sizes():
    assert resized(480, 640, 144, 192) == (144, 192)
    assert resized(100, 1000, 144, 192) == (19, 192)
    image, target = torch.rand(3, 4, 4), {"boxes": torch.zeros(0, 4)}
    assert collate([(image, target)] * 2)[0][1] is image


def test_pieces_of_lobes_become_objects():
    labels = np.zeros((40, 60), np.uint8)
    labels[2:12, 2:12], labels[2:12, 30:40] = 3, 3  # two pieces of one lobe
    labels[12:20, 12:20] = 3  # touches the first at a corner: the same piece
    labels[30:33, 5:8], labels[25:40, 40:60] = 1, 2  # the first is too small
    found = [(label, int(mask.sum())) for label, mask in pieces(labels)]
    assert found == [(2, 300), (3, 164), (3, 100)]


def test_brain_has_objects_with_masks(need):
    try:
        data = detection_data("brain", None, short_side=160, long_side=160, masks=True)
    except UserError as reason:
        need.that(False, str(reason))
    assert data.classes == tuple(brain.LOBES)
    image, target = data.test[10]
    assert image.shape == (3, 160, 160) and len(target["boxes"]) > 5
    for box, mask in zip(target["boxes"].round().int().tolist(), target["masks"], strict=True):
        rows, columns = (mask.any(dim).nonzero() for dim in (1, 0))
        assert abs(int(columns.min()) - box[0]) <= 1 and abs(int(rows.max()) + 1 - box[3]) <= 1
