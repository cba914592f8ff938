"""`kdfast distill kd` on the 8 x 8 digits: what it writes, resume after a kill, two processes, bad states."""

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import yaml

from kdfast.cli import main
from kdfast.recipes import kd
from kdfast.recipes.common import digits
from kdfast.recipes.common.classify import accuracy

SMALL = ["--data", "sklearn", "--seeds", "1", "--teacher-epochs", "1", "--epochs", "3", "--device", "cpu"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kdfast.cli", "distill", "kd", *arguments]


def history(out: Path) -> list[dict]:
    """metrics.jsonl without what differs between two runs: the times."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in ("ms", "seconds")} for record in records
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("kd") / "straight"
    assert main(["distill", "kd", *SMALL, "--out", str(out)]) == 0
    return out


def test_folder_holds_what_it_should(straight):
    names = {"config.yaml", "metrics.jsonl", "checkpoint", "student.safetensors", "report.html"}
    assert {path.name for path in straight.iterdir()} == names
    config = yaml.safe_load((straight / "config.yaml").read_text())
    assert config["recipe"] == "kd" and config["epochs"] == 3 and config["data"] == "sklearn"


def test_metrics_have_a_line_per_stage_and_epoch(straight):
    records = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["epoch"]) for r in records] == [("teacher", 1)] + [
        (stage, epoch) for stage in ("student-0", "distilled-0") for epoch in (1, 2, 3)
    ]
    last = records[-1]
    assert set(last["terms"]) == {"task", "kl"}
    total = last["terms"]["task"] + kd.Options().weight * last["terms"]["kl"]
    assert last["loss"] == pytest.approx(total, rel=1e-4)
    assert {"data", "teacher", "student", "loss", "backward", "optimizer"} <= set(last["ms"])
    assert 0 <= last["val_accuracy"] <= 1 and 0 <= last["train_accuracy"] <= 1


def test_student_file_is_the_tested_student(straight):
    student = kd.student_network(8)
    student.load_state_dict(safetensors.torch.load_file(straight / "student.safetensors"))
    score = json.loads((straight / "checkpoint" / "distilled-0-test.json").read_text())
    assert accuracy(student, digits.load("sklearn").test) == score


def test_student_and_distilled_start_alike(straight):
    """Same seed: same first weights and order, so that only the loss differs."""
    first = {r["stage"]: r for r in history(straight) if r["epoch"] == 1}
    alone, distilled = first["student-0"], first["distilled-0"]
    assert alone["terms"]["task"] != distilled["terms"]["task"]
    assert alone["lr"] == distilled["lr"] and alone["step"] == distilled["step"]


def test_report_names_all_three(straight):
    page = (straight / "report.html").read_text()
    assert all(words in page for words in ("teacher", "student alone", "distilled student", "plain PyTorch"))
    assert page.count("data:image/svg+xml") == 3


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_and_resumed_is_the_same_to_the_bit(straight, tmp_path, how):
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(*SMALL, "--out", str(out)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    checkpoint = out / "checkpoint" / "distilled-0.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == (143 if how == signal.SIGTERM else -9)
    assert ("" if how == signal.SIGKILL else f"--resume {out}") in err and err.count("\n") <= 1
    assert checkpoint.exists() and not (out / "report.html").exists(), "it was to be killed half-way"
    assert main(["distill", "kd", "--resume", str(out)]) == 0
    assert history(out) == history(straight)
    name = "student.safetensors"
    assert (out / name).read_bytes() == (straight / name).read_bytes()


def test_finished_run_is_not_run_again(straight, capsys):
    before = (straight / "metrics.jsonl").read_bytes()
    assert main(["distill", "kd", "--resume", str(straight)]) == 0
    assert "finished" in capsys.readouterr().out
    assert (straight / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("launcher", ["devices", "torchrun"])
def test_two_processes_share_the_batches(tmp_path, launcher):
    out = tmp_path / "out"
    arguments = [*SMALL, "--epochs", "1", "--no-baseline", "--devices", "2", "--out", str(out)]
    start = command(*arguments)
    if launcher == "torchrun":
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *start[1:]]
    done = subprocess.run(start, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = history(out)
    assert [record["stage"] for record in records] == ["teacher", "distilled-0"]
    steps = -(-len(digits.load("sklearn").train) // (2 * kd.Options().batch_size))
    assert [record["step"] for record in records] == [steps, steps]
    assert (out / "student.safetensors").exists() and (out / "report.html").exists()


def test_damaged_checkpoint_is_one_line(straight, tmp_path, capsys):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "config.yaml").write_bytes((straight / "config.yaml").read_bytes())
    whole = (straight / "checkpoint" / "teacher.ckpt").read_bytes()
    (tmp_path / "checkpoint" / "teacher.ckpt").write_bytes(whole[: len(whole) // 2])
    assert main(["distill", "kd", "--resume", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "teacher.ckpt cannot be read" in err


def test_full_disk_is_one_line_and_keeps_the_run(tmp_path, capsys):
    """A limit on file size stands in for the full disk; the teacher's checkpoint is above it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        status = main(["distill", "kd", *SMALL, "--out", str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err
    assert status == 2 and re.fullmatch(r"kdfast: cannot write .*teacher.ckpt: .*\n", err), err
    assert (tmp_path / "out" / "config.yaml").exists()
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_without_network_the_small_digits_serve(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDFAST_DATA", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    options = kd.Options()
    options.prepare()
    assert options.data == "sklearn"
    assert capsys.readouterr().out.count("\n") == 1
