"""`kdfast distill kan_student`: teachers, the loss, a run, resume, and bad input."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from kdfast.cli import main
from kdfast.recipes import kan_student
from kdfast.recipes.kan_select import load
from kdfast.recipes.kan_student.recipe import network_outputs, score_of, split
from kdfast.recipes.kan_student.student import fit_inputs
from kdfast.recipes.kan_student.teachers import TEACHERS, fitted

SMALL = ["--data", "breast_cancer", "--rows", "150", "--seeds", "1", "--trees", "5", "--epochs", "2",
         "--device", "cpu"]  # fmt: skip


@pytest.mark.parametrize("name", TEACHERS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_teachers_speak_about_unseen_rows(name, task):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 3)).astype(np.float32)
    y = rng.integers(0, 3, 100) if task == "classification" else rng.normal(size=100)  # nothing to learn
    teacher = kan_student.make_teacher(name, task, trees=20, seed=0)
    honest = kan_student.out_of_fold(teacher, x, y, seed=0)
    told = kan_student.outputs(fitted(teacher, x, y), x)
    assert honest.shape == told.shape == ((100, 3) if task == "classification" else (100, 1))
    assert score_of(task, honest, y) < score_of(task, told, y)
    if task == "classification":
        torch.testing.assert_close(torch.from_numpy(told).exp().sum(1), torch.ones(100))


def test_the_losses_are_the_equations():
    s, t, y = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    student = kan_student.TableStudent(
        torch.nn.Identity(), "classification", 3, None, alpha=0.3, temperature=2.0
    )
    kl = 4 * F.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(student.losses(s, t, y)[0], 0.7 * F.cross_entropy(s, y) + 0.3 * kl)
    student = kan_student.TableStudent(torch.nn.Identity(), "regression", 1, None, alpha=0.3, temperature=2.0)
    s, t, y = torch.randn(5, 1), torch.randn(5, 1), torch.randn(5)
    expected = 0.7 * (s[:, 0] - y).square().mean() + 0.3 * (s - t).square().mean()
    torch.testing.assert_close(student.losses(s, t, y)[0], expected)


def test_the_network_takes_features_as_they_are_measured():
    network = kan_student.student_network(3, 4, 2)
    x = torch.randn(200, 3) * torch.tensor([1e3, 1e-3, 0]) + torch.tensor([1e4, 0, 7])
    fit_inputs(network, x)
    z = network[0](x)
    torch.testing.assert_close(z.std(0, correction=0), torch.tensor([1.0, 1, 0]), rtol=1e-3, atol=1e-3)
    assert network(x).isfinite().all()


def test_parts_do_not_overlap():
    table = load("diabetes")
    study = split(table, 0)
    rows = [tuple(row) for part in (study.train, study.validation, study.test) for row in part.x.tolist()]
    assert len(rows) == len(table.y) and len(set(rows)) == len(
        {tuple(r) for r in table.x.astype("f4").tolist()}
    )
    assert abs(study.train.y.mean()) < 1e-5 and study.outputs == 1


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("student") / "out"
    assert main(["distill", "kan_student", *SMALL, "--out", str(out)]) == 0
    return out


def test_the_saved_student_is_the_tested_one(straight):
    names = {"config.yaml", "metrics.jsonl", "checkpoint", "student.safetensors", "report.html"}
    assert {path.name for path in straight.iterdir()} == names
    network = kan_student.student_network(30, 8, 2)
    network.load_state_dict(safetensors.torch.load_file(straight / "student.safetensors"))
    study = split(load("breast_cancer").sample(150, 0), 0)
    score = json.loads((straight / "checkpoint" / "distilled-0-test.json").read_text())
    assert score_of("classification", network_outputs(network, study.test.x), study.test.y) == score
    page = (straight / "report.html").read_text()
    assert "distilled student" in page and "teacher, boosting" in page and page.count("image/svg+xml") == 4


def history(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("ms", "seconds")} for record in records]


def test_killed_and_resumed_is_the_same_to_the_bit(straight, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "kdfast.cli", "distill", "kan_student", *SMALL, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (out / "checkpoint" / "student-0.ckpt").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["distill", "kan_student", "--resume", str(out)]) == 0
    assert history(out) == history(straight)
    assert (out / "student.safetensors").read_bytes() == (straight / "student.safetensors").read_bytes()


def test_regression_from_an_mlp(tmp_path):
    out = tmp_path / "out"
    options = ["--data", "diabetes", "--rows", "120", "--seeds", "1", "--trees", "5", "--epochs", "1"]
    assert main(["distill", "kan_student", *options, "--teacher", "mlp", "--out", str(out)]) == 0
    assert {"task", "imitation"} == set(history(out)[-1]["terms"]) and "val_r2" in history(out)[-1]


@pytest.mark.parametrize(("options", "words"), [
    (["--data", "iris"], "--data"), (["--alpha", "0"], "--alpha"), (["--rows", "9"], "--rows"),
    (["--teacher", "svm"], "--teacher"), (["--target", "y"], "--table"), (["--hidden", "0"], "--hidden"),
])  # fmt: skip
def test_bad_options_are_one_line(options, words, tmp_path, capsys):
    assert main(["distill", "kan_student", *options, "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
