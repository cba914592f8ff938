"""`kdfast distill acam_kd` on a few pictures: what it writes, resumed, on two processes, bad options."""

import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from kdfast.cli import main
from kdfast.recipes.acam_kd import Options
from kdfast.recipes.acam_kd.masks import collapsed, sheet
from kdfast.recipes.acam_kd.tasks import task_of
from kdfast.recipes.common.callbacks import SaveEpochs

TINY = ["--seeds", "1", "--epochs", "2", "--teacher-epochs", "1", "--batch-size", "2", "--student",
        "mobilenet_v2_0.25", "--teacher", "mobilenet_v2_0.35", "--width", "32", "--device", "cpu",
        "--progress", "none"]  # fmt: skip
DET = ["--task", "det", "--data", "voc", "--short-side", "48", "--long-side", "64", "--extra-levels", "no",
       "--anchor-scale", "0.5", "--head-norm", "yes", "--optimizer", "adamw", "--lr", "0.001",
       *TINY]  # fmt: skip
SEG = ["--task", "seg", "--data", "folder", "--short-side", "32", "--long-side", "32", "--optimizer",
       "adamw", "--lr", "0.001", *TINY]  # fmt: skip


def squares(draw, count):
    """Images 80 x 60 of bright squares on noise, with their corners."""
    for number in range(count):
        pixels = draw.integers(0, 90, (60, 80, 3), dtype=np.uint8)
        x, y, side = (int(v) for v in draw.integers((4, 4, 14), (50, 30, 28)))
        pixels[y : y + side, x : x + side] = 220
        yield f"square{number}", pixels, (x, y, x + side, y + side)


@pytest.fixture(scope="module")
def det_folder(tmp_path_factory):
    """A VOC folder of squares; the last image has no object."""
    root = tmp_path_factory.mktemp("voc")
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = []
    for name, pixels, corners in squares(np.random.default_rng(0), 6):
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.png")
        text = "" if name == "square5" else f"<object><name>square</name>{box.format(*corners)}</object>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{text}</annotation>")
        names.append(name)
    for part, own in (("train", names), ("val", names[:2]), ("test", names[2:4])):
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(own))
    return root


@pytest.fixture(scope="module")
def seg_folder(tmp_path_factory):
    """The squares with a class for each pixel."""
    root = tmp_path_factory.mktemp("seg")
    (root / "classes.txt").write_text("noise\nsquare\n")
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True)
        for name, pixels, (x1, y1, x2, y2) in squares(np.random.default_rng(1), 4):
            labels = np.zeros((60, 80), np.uint8)
            labels[y1:y2, x1:x2] = 1
            Image.fromarray(pixels).save(root / "images" / part / f"{name}.png")
            Image.fromarray(labels).save(root / "labels" / part / f"{name}.png")
    return root


def history(out):
    """metrics.jsonl without what differs between two runs: the times."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: v for key, v in record.items() if key not in ("ms", "seconds")} for record in records]


@pytest.fixture(scope="module")
def det_run(det_folder, tmp_path_factory):
    """A run without interruption; beside it `stopped`, its folder as it was when half of the distilled
    stage was done.
    """
    out = tmp_path_factory.mktemp("run") / "det"
    stopped, whole = out.with_name("stopped"), SaveEpochs.on_train_epoch_end

    def save(self, trainer, module):
        whole(self, trainer, module)
        if (out / "checkpoint" / "distilled-0.ckpt").exists() and not stopped.exists():
            shutil.copytree(out, stopped)

    arguments = [*DET, "--data-root", str(det_folder), "--inherited-baseline", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaveEpochs, "on_train_epoch_end", save)
        assert main(["distill", "acam_kd", *arguments]) == 0
    return out


def test_detection_run_writes_what_it_should(det_run):
    names = {path.name for path in det_run.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "checkpoint", "masks", "student.safetensors",
                     "teacher.safetensors", "report.html"}  # fmt: skip
    records = history(det_run)
    stages = ["teacher", "student-0", "student-0", "inherited-0", "inherited-0", "distilled-0", "distilled-0"]
    assert [record["stage"] for record in records] == stages
    last = records[-1]
    assert set(last["terms"]) == {"classification", "bbox_regression", "acam"}
    parts = last["acam"]
    total = parts["loss_s"] + parts["loss_c"] + parts["loss_div"]
    assert last["terms"]["acam"] == pytest.approx(total, rel=1e-4)
    assert 0 < last["masks"]["spatial_mean-0"] < 1 and 0 <= last["val_AP"] <= 1
    assert len(list((det_run / "masks" / "distilled-0").glob("epoch-*.png"))) == 2
    config = yaml.safe_load((det_run / "config.yaml").read_text())
    assert config["num_masks"] == 6 and config["alpha"] == config["lambda_div"] == 1


def test_report_shows_predictions_and_masks(det_run):
    page = (det_run / "report.html").read_text()
    for words in ("Predictions on test images", "Spatial masks", "Mean of the masks", "AP by kind",
                  "student alone, teacher&#39;s head", "plain PyTorch"):  # fmt: skip
        assert words in page
    assert page.count("data:image/png") >= 2 * 5 + 2


def test_student_file_is_the_bare_student(det_run, det_folder):
    config = yaml.safe_load((det_run / "config.yaml").read_text())
    config.pop("recipe")
    options = Options(**config)
    task = task_of(options)
    student = task.network("student")
    student.load_state_dict(safetensors.torch.load_file(det_run / "student.safetensors"))
    want = json.loads((det_run / "checkpoint" / "distilled-0-test.json").read_text())
    assert task.scores(student)["AP"] == want["AP"]


def test_resumed_after_a_whole_epoch_is_the_same_to_the_bit(det_run):
    stopped = det_run.with_name("stopped")
    assert history(stopped)[-1]["epoch"] == 1 and not (stopped / "report.html").exists()
    assert main(["distill", "acam_kd", "--resume", str(stopped)]) == 0
    assert history(stopped) == history(det_run)
    name = "student.safetensors"
    assert (stopped / name).read_bytes() == (det_run / name).read_bytes()


def test_teacher_checkpoint_saves_training_it(det_run, det_folder, tmp_path, capsys):
    arguments = [*DET, "--data-root", str(det_folder), "--no-baseline", "--epochs", "1"]
    given = ["--teacher-checkpoint", str(det_run / "teacher.safetensors"), "--out", str(tmp_path / "a")]
    assert main(["distill", "acam_kd", *arguments, *given]) == 0
    assert [record["stage"] for record in history(tmp_path / "a")] == ["distilled-0"]
    given = ["--teacher-checkpoint", str(det_run / "student.safetensors"), "--out", str(tmp_path / "b")]
    assert main(["distill", "acam_kd", *arguments, *given]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "does not hold a retinanet with mobilenet_v2_0.35" in err


@pytest.mark.parametrize("model", ["deeplabv3", "pspnet"])
def test_segmentation_run(seg_folder, tmp_path, model):
    out = tmp_path / "seg"
    arguments = [*SEG, "--model", model, "--data-root", str(seg_folder), "--no-baseline", "--out", str(out)]
    assert main(["distill", "acam_kd", *arguments]) == 0
    last = history(out)[-1]
    assert 0 <= last["val_mIoU"] <= 1 and last["acam"]["loss_div"] > 0
    assert "Spatial masks" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--task", "det", "--data", "brain"], "option --data: with --task det one of bccd, coco"),
        (["--task", "seg", "--model", "fcos"], "option --model: with --task seg one of deeplabv3"),
        (["--task", "det", "--data", "coco"], "needs the folder of the data set"),
        (["--data", "voc", "--data-root", "nowhere"], "is no folder"),
        (["--output-stride", "9"], "option --output-stride: 8, 16 or 32"),
        (["--alpha", "-1"], "option --alpha: 0 or more"),
        (["--teacher", "resnet7"], "backbone 'resnet7': one of resnet18"),
        (["--kv-pool", "0"], "option --kv-pool"),
        (["--classes", "[RBC, lamp]"], "the classes are RBC, lamp"),
        (["--task", "seg", "--classes", "[a]"], "option --classes: for --task det"),
    ],
)
def test_bad_options_are_one_line(arguments, words, tmp_path, capsys, need):
    need.data("bccd", "BCCD")
    assert main(["distill", "acam_kd", *arguments, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    "model, student_model, levels",
    [("retinanet", "", 3), ("faster_rcnn", "", 5), ("fcos", "", 3), ("retinanet", "fcos", 3)],
)
def test_every_detector_is_distilled(det_folder, model, student_model, levels):
    """One step of each; two-stage detectors have P2 ... P5 and the pooled level."""
    options = Options(
        data="voc", data_root=str(det_folder), model=model, student_model=student_model, short_side=48,
        long_side=64, width=32, anchor_scale=0.5, extra_levels="yes" if model == "faster_rcnn" else "no",
        ignore_padding=model == "retinanet",
        student="mobilenet_v2_0.25", teacher="mobilenet_v2_0.35", kv_pool=1,
    )  # fmt: skip
    options.prepare()
    task = task_of(options)
    teacher, student = task.network("teacher").eval(), task.network("student")
    copied = task.inherit(student, teacher).copied
    assert any("backbone.fpn" in name for name in copied)
    assert any("backbone.fpn" not in name for name in copied) == (student_model == "")
    d = task.distiller(student, teacher).train()
    inputs, target = task.batch(2)
    out = d(*inputs, target=target)
    out.loss.backward()
    assert out.loss.isfinite() and len(d.terms[0].loss.distiller.levels) == levels
    assert all(p.grad is None or p.grad.isfinite().all() for p in d.parameters())
    assert not any(name.startswith("terms") for name in d.export_student().state_dict())


def test_levels_that_differ_are_one_line(det_folder, tmp_path, capsys):
    arguments = [*DET, "--epochs", "1", "--no-baseline", "--data-root", str(det_folder)]
    arguments += ["--student-model", "faster_rcnn", "--out", str(tmp_path / "out")]
    assert main(["distill", "acam_kd", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--model retinanet cannot teach --student-model faster_rcnn" in err


def test_defaults_of_large_data_are_the_papers():
    options = Options(task="det", data="coco")
    options.prepare()
    assert (options.teacher, options.student, options.epochs, options.lr) == (
        "resnet101",
        "resnet50",
        24,
        0.01,
    )
    options = Options(task="seg", data="cityscapes")
    options.prepare()
    assert (options.lr, options.weight_decay, options.output_stride) == (0.02, 5e-4, 8)
    assert options.inherit == "no" and options.alpha == options.lambda_div == 1
    assert (options.mask_norm, options.detach_student_in_attention) == ("l1", "no")


def test_what_is_given_stands_before_the_data_sets_row():
    options = Options(task="seg")
    options.prepare()
    assert (options.data, options.mask_norm, options.detach_student_in_attention) == ("brain", "l2", "yes")
    options = Options(task="seg", mask_norm="l1", detach_student_in_attention="no")
    options.prepare()
    assert (options.mask_norm, options.detach_student_in_attention) == ("l1", "no")


@pytest.mark.slow
def test_two_processes(det_folder, tmp_path):
    out = tmp_path / "two"
    arguments = [*DET, "--epochs", "1", "--batch-size", "1", "--no-baseline", "--data-root", str(det_folder)]
    command = [sys.executable, "-m", "kdfast.cli", "distill", "acam_kd", *arguments]
    command += ["--devices", "2", "--losses", "spatial", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [(r["stage"], r["step"]) for r in history(out)] == [("teacher", 3), ("distilled-0", 3)]
    assert (out / "report.html").exists()


@pytest.mark.parametrize("masks, size", [(6, (2 * 12, 6 * 14)), (19, (2 * 4 * 12, 6 * 14)), (2, (24, 28))])
def test_sheet_of_masks(masks, size):
    levels = {name: (torch.rand(1, masks, *side), torch.rand(1, masks, 4)) for name, side in
              (("0", (5, 6)), ("1", (1, 1)))}  # fmt: skip
    picture = Image.open(io.BytesIO(sheet(torch.rand(3, 10, 12), levels)))
    assert (picture.height, picture.width) == size


def test_collapse_is_seen():
    assert collapsed({"0": torch.full((1, 6, 4, 4), 0.5), "1": torch.full((1, 6, 2, 2), 0.001)}) == ["1"]
