"""The dense recipes from the command line on the layouts that their own tests do not use, small networks."""

import coco_folder
import pytest

from kdfast.cli import main

BOXES = {"voc": coco_folder.as_voc, "kitti": coco_folder.as_kitti, "coco": coco_folder.as_coco2017}
COMMON = {"seeds": 1, "epochs": 1, "threads": 1, "batch-size": 3, "progress": "none"}
ACAM = COMMON | {"teacher-epochs": 1, "teacher": "mobilenet_v2_0.25", "student": "mobilenet_v2_0.25"}
RECIPES = {
    "acam_kd": ACAM
    | {"short-side": 48, "long-side": 64, "width": 32, "extra-levels": "no", "anchor-scale": 0.5},
    "clock_distill": COMMON
    | {"short-side": 48, "long-side": 64, "dim": 32, "queries": 8, "decoder-layers": 1, "denoising": 4}
    | {"teacher-epochs": 1, "teacher-backbone": "mobilenet_v2_0.25", "teacher-weights": "null"}
    | {"student-backbone": "mobilenet_v2_0.25"},
    "dynamic_ykd": COMMON
    | {"short-side": 48, "long-side": 64, "pool": 4, "regions": 8, "sampled": 8, "proposals": "[20, 10]"}
    | {"backbone": "mobilenet_v2_0.25", "weights": "null", "base-epochs": 1, "scenario": "2-1"}
    | {"averages": "[]"},
}


def ran(recipe: str, options: dict, root, out) -> str:
    """The report of a run without the student alone."""
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    arguments = ["distill", recipe, *flags, "--data-root", str(root), "--no-baseline", "--out", str(out)]
    assert main(arguments) == 0
    return (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, layout",
    [
        ("acam_kd", "coco"),
        ("acam_kd", "kitti"),
        ("clock_distill", "kitti"),
        ("clock_distill", "voc"),
        ("dynamic_ykd", "coco"),
    ],
)
def test_boxes(tmp_path, recipe, layout):
    root = BOXES[layout](tmp_path / "data")
    page = ran(recipe, RECIPES[recipe] | {"data": layout}, root, tmp_path / "out")
    names = ("Car", "Pedestrian", "Cyclist") if layout == "kitti" else coco_folder.CLASSES
    assert all(name in page for name in names)
    assert ("tested on the validation images" in page) == (layout == "coco")  # COCO keeps its test labels


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["cityscapes", "voc"])
def test_pixels(tmp_path, layout):
    root = coco_folder.as_pixels(tmp_path / "data", layout)
    options = ACAM | {"task": "seg", "data": layout, "short-side": 32, "long-side": 32, "width": 16}
    page = ran("acam_kd", options, root, tmp_path / "out")
    assert "tested on the validation images" in page and "mIoU" in page
