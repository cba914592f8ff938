"""`kdfast distill dynamic_ykd` on a few pictures: what it writes, interrupted and resumed, bad options."""

import coco_folder
import pytest
import safetensors.torch
import torch

from kdfast.cli import main
from kdfast.recipes.common.dense.detection import detection_data
from kdfast.recipes.dynamic_ykd import ClassesOnly, Options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coco_folder.write(tmp_path_factory.mktemp("coco"))


def arguments(folder, *more: str) -> list[str]:
    options = {
        "data": "coco",
        "data-root": folder,
        "short-side": 48,
        "long-side": 64,
        "pool": 4,
        "regions": 8,
    }
    options |= {"backbone": "mobilenet_v2_0.25", "seeds": 1, "base-epochs": 1, "epochs": 2, "threads": 1}
    options |= {"scenario": "1-1", "sampled": 8, "averages": "[0, 0.5]"}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    flags += ["--proposals", "[20, 10]", "--weights", "null", "--progress", "none", "--masks", "--joint"]
    return ["distill", "dynamic_ykd", *flags, *more]


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("ykd") / "straight"
    assert main(arguments(folder, "--out", str(out))) == 0
    return out


def test_steps_see_only_their_classes(folder):
    data = detection_data("coco", folder, short_side=48, long_side=64)
    whole = ClassesOnly(data.train, (1, 2, 3))
    assert len(whole) == 6 and len(whole[2][1]["labels"]) == 2
    third = ClassesOnly(data.train, (3,), only_with=True)
    assert len(third) == 4  # every third image has none
    assert all(third[i][1]["labels"].tolist() == [3] for i in range(4))
    assert all(len(third[i][1]["boxes"]) == len(third[i][1]["iscrowd"]) == 1 for i in range(4))


def test_run_writes_what_it_should(straight):
    records = coco_folder.history(straight)
    names = ["base", "joint", "finetune-step1-0", "finetune-step2-0", "ykd-step1-0", "ykd-step2-0"]
    assert list(dict.fromkeys(record["stage"] for record in records)) == names
    terms = records[-1]["terms"]
    assert {"kd_classes", "kd_boxes", "kd_masks", "kd_rpn", "masks"} <= set(terms)
    assert records[-1]["loss"] == pytest.approx(sum(terms.values()), rel=1e-4)
    page = (straight / "report.html").read_text()
    parts = (
        "AP of boxes",
        "AP of masks",
        "fine-tuning",
        "joint training",
        "Averaging the old and the new head",
        "share of a step",
    )
    assert all(words in page for words in parts)
    assert page.count("data:image/png") == 4 * 4


def test_student_file_holds_a_module_for_every_task(straight):
    state = safetensors.torch.load_file(straight / "student.safetensors")
    assert {name.split(".")[1] for name in state if name.startswith("specific.")} == {"0", "1", "2"}
    assert state["head.box_predictor.cls_score.weight"].shape[0] == 4
    first, last = (state[f"specific.{task}.4.conv.0.0.weight"] for task in (0, 2))
    assert not torch.equal(first, last)


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_same_to_the_bit(straight, folder, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        coco_folder.interrupt_after(patch, "ykd-step1-0")
        assert main(arguments(folder, "--out", str(out))) == 130
    assert not (out / "report.html").exists()
    assert main(["distill", "dynamic_ykd", "--resume", str(out)]) == 0
    assert coco_folder.history(out) == coco_folder.history(straight)
    name = "student.safetensors"
    assert (out / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_images(folder, tmp_path):
    out = tmp_path / "two"
    more = ["--epochs", "1", "--no-baseline", "--no-joint", "--batch-size", "1", "--scenario", "2-1"]
    coco_folder.on_two_processes(arguments(folder, *more, "--out", str(out)))
    records = coco_folder.history(out)
    assert [(r["stage"], r["step"]) for r in records] == [("base", 3), ("ykd-step1-0", 2)]
    assert (out / "student.safetensors").exists() and (out / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("data", ["voc", "kitti"])
def test_boxes_of_other_layouts(tmp_path, data):
    root = {"voc": coco_folder.as_voc, "kitti": coco_folder.as_kitti}[data](tmp_path / data)
    more = ["--data", data, "--data-root", str(root), "--no-masks", "--no-joint", "--no-baseline"]
    more += ["--epochs", "1", "--scenario", "2-1", "--averages", "[]", "--out", str(tmp_path / "out")]
    assert main(arguments(root, *more)) == 0


@pytest.mark.parametrize(
    "more, words",
    [
        (["--scenario", "15-1"], "option --scenario: scenario '15-1' does not fit 3 classes"),
        (["--scenario", "two"], "must be like '15-1'"),
        (["--averages", "[2]"], "--averages: weights from 0 to 1"),
        (["--data", "voc"], "--masks: needs --data coco or brain"),
        (["--classes", "[disc, bar, lamp]"], "lamp"),
        (["--pool", "5"], "--pool: an even number"),
        (["--classes-weight", "-1"], "--classes-weight: 0 or more"),
    ],
)
def test_bad_options_are_one_line(folder, tmp_path, capsys, more, words):
    assert main(arguments(folder, "--out", str(tmp_path / "out"), *more)) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_paper_weights_are_settled_by_the_scenario():
    for scenario, expected in (("15-1", (2, 2)), ("10-5", (1.5, 1)), ("19-1", (1, 1))):
        options = Options(scenario=scenario)
        options.prepare()
        assert (options.classes_weight, options.masks_weight) == expected
