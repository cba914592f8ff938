"""`kdfast distill kd_oct` as a whole: what it writes, resumed to the bit, stopped early, refused."""

import csv
import json

import pytest

from kdfast.cli import main
from kdfast.recipes import kd_oct
from kdfast.recipes.common.parse import parse
from kdfast.recipes.kd_oct import synthetic

SMALL = [
    "--data", "synthetic", "--image-size", "16", "--teacher", "cifar_resnet8", "--student", "cifar_resnet8",
    "--teacher-epochs", "2", "--swa-start", "1", "--epochs", "1", "--folds", "2", "--seeds", "1",
    "--device", "cpu", "--threads", "1", "--progress", "none",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_scans():
    """The demonstration set with 24 patients of 3 scans: a run of seconds."""
    real = synthetic.b_scans

    def fewer(patients, scans, **options):
        return real(*((24, 3) if (patients, scans) == (60, 10) else (patients, scans)), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "b_scans", fewer)
        yield


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("kd_oct") / "straight"
    assert main(["distill", "kd_oct", *SMALL, "--out", str(out)]) == 0
    return out


def test_run_writes_what_it_should(straight):
    names = {path.name for path in straight.iterdir()}
    assert names >= {"folds.json", "cv_results.csv", "student.onnx", "student.pt2", "report.html"}
    assert names >= {"student.safetensors", "teacher-0.safetensors", "teacher-1.safetensors"}
    page = (straight / "report.html").read_text()
    assert all(words in page for words in ("teacher, swa", "5 views", "Not a medical device", "Reliability"))
    parity = json.loads((straight / "checkpoint" / "export.json").read_text())
    assert all(gap < 1e-5 for gap in parity.values()) and set(parity) == {"torch.export", "ONNX"}
    table = list(csv.DictReader((straight / "cv_results.csv").read_text().splitlines()))
    assert {row["network"] for row in table} == {
        "teacher", "teacher, best", "teacher, swa", "teacher, 5 views", "student", "distilled",
    }  # fmt: skip


def test_resumed_is_the_same_to_the_bit(straight, tmp_path):
    """Killed after the first fold's student alone: best epoch and average come back from the checkpoint."""
    resumed = tmp_path / "resumed"
    (resumed / "checkpoint").mkdir(parents=True)
    for name in ("config.yaml", "checkpoint/teacher-0.ckpt", "checkpoint/student-0-0.ckpt"):
        (resumed / name).write_bytes((straight / name).read_bytes())
    assert main(["distill", "kd_oct", "--resume", str(resumed)]) == 0
    for name in ("student.safetensors", "teacher-0.safetensors", "teacher-1.safetensors", "folds.json"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()


def test_teachers_of_other_folds_are_refused(straight, tmp_path, capsys):
    given = [*SMALL, "--teacher-run", str(straight), "--no-baseline", "--no-export", "--no-tta"]
    assert main(["distill", "kd_oct", *given, "--split-seed", "7", "--out", str(tmp_path / "other")]) == 2
    assert "were trained on other folds" in capsys.readouterr().err
    assert main(["distill", "kd_oct", *given, "--first-folds", "0", "--out", str(tmp_path / "same")]) == 0


def test_low_precision_and_a_cached_teacher(tmp_path):
    """Sizes and times of the teacher are measured after it was cast, and the students need it no more."""
    given = [*SMALL, "--precision", "bf16-mixed", "--teacher-precision", "bfloat16", "--augment", "none"]
    given += ["--teacher-cache", str(tmp_path / "cache"), "--first-folds", "1", "--no-tta", "--no-export"]
    out = tmp_path / "run"
    assert main(["distill", "kd_oct", *given, "--teacher-epochs", "1", "--out", str(out)]) == 0
    times = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["ms"]
    assert "teacher" not in times and "student" in times
    assert main(["distill", "kd_oct", *SMALL, "--teacher-cache", "x", "--out", str(tmp_path / "bad")]) == 2


def test_stops_when_no_epoch_is_better(tmp_path):
    given = [*SMALL, "--no-baseline", "--no-export", "--no-tta", "--first-folds", "1", "--lr", "1e-12"]
    given += ["--epochs", "6", "--patience", "1", "--teacher-epochs", "1", "--swa-start", "-1"]
    out = tmp_path / "run"
    assert main(["distill", "kd_oct", *given, "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines].count("distilled-0-0") < 6


def test_pretrained_is_a_flag_whose_default_the_data_sets(tmp_path):
    given = [parse("kd_oct", kd_oct, ["--data", str(tmp_path), *flag])[0] for flag in FLAGS]
    assert [options.pretrained for options in given] == [True, True, False]
    assert given[0].focal == "kdoct" and given[0].class_weights == "teacher"
    elpv = parse("kd_oct", kd_oct, [])[0]
    assert (elpv.focal, elpv.class_weights, elpv.pretrained) == ("standard", "none", False)


FLAGS = ([], ["--pretrained"], ["--no-pretrained"])


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--folds", "1"], "--folds"), (["--focal", "soft"], "--focal"), (["--lr", "0"], "--lr"),
     (["--data", "nowhere"], "nowhere"), (["--teacher", "convnextv3"], "convnextv3")],
)  # fmt: skip
def test_bad_options_are_one_line(given, message, tmp_path, capsys):
    assert main(["distill", "kd_oct", *given, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err
