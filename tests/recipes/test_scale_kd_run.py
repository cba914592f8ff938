"""`kdfast distill scale_kd` as a whole: what it writes, resumed to the bit, cached teachers, refused."""

import json
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import kdfast
from kdfast.cli import main
from kdfast.recipes.common import cifar_nets

SMALL = ["--image-size", "28", "--channels", "1", "--augment", "flip", "--label-share", "0.5", "--seeds", "1"]
SMALL += [
    "--batch-size",
    "8",
    "--device",
    "cpu",
    "--student",
    "cifar_resnet8",
    "--teacher-epochs",
    "1",
    "--epochs",
    "2",
    "--progress",
    "none",
]


def history(out):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in ("ms", "seconds")} for record in records
    ]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[str]:
    """Options for 48 noisy pictures of three brightnesses."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = torch.Generator().manual_seed(0)
    for number, name in enumerate(("dark", "grey", "light")):
        (folder / name).mkdir()
        for row in range(16):
            pixels = 60 * number + 100 * torch.rand(28, 28, generator=draw)
            Image.fromarray(pixels.byte().numpy()).save(folder / name / f"{row}.png")
    return ["--data", str(folder), *SMALL]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, small):
    out = tmp_path_factory.mktemp("scale_kd") / "straight"
    assert main(["distill", "scale_kd", *small, "--out", str(out)]) == 0
    return out


def test_folder_and_metrics(straight):
    assert (straight / "student.safetensors").exists()
    records = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in records] == ["teacher", *["student-0"] * 2, *["distilled-0"] * 2]
    assert set(records[-1]["terms"]) == {"task", "kd", "spat_3", "alt_3", "spat_4", "alt_4"}
    assert {"teacher", "student", "projectors", "loss", "backward"} <= set(records[-1]["ms"])
    report = (straight / "report.html").read_text()
    for part in ("Do the losses fall?", "What training costs", "plain PyTorch"):
        assert part in report


def test_weights_are_the_bare_students(straight):
    weights = load_file(straight / "student.safetensors")
    bare = cifar_nets.create("cifar_resnet8", classes=3, channels=1)
    bare.load_state_dict(weights)


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same_to_the_bit(straight, small, tmp_path):
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "kdfast.cli", "distill", "scale_kd", *small, "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoint = out / "checkpoint" / "distilled-0.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert checkpoint.exists() and not (out / "report.html").exists(), "it was to be killed half-way"
    assert main(["distill", "scale_kd", "--resume", str(out)]) == 0
    assert history(out) == history(straight)
    name = "student.safetensors"
    assert (out / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_batches(small, tmp_path):
    """Under torchrun: half the steps, one folder, the bare student."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "kdfast.cli"]
    given = [*small, "--no-baseline", "--epochs", "1", "--ema", "0.1", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [*start, "distill", "scale_kd", *given], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    records = history(tmp_path / "out")
    assert [record["stage"] for record in records] == ["teacher", "distilled-0"]
    alone = json.loads((tmp_path / "out" / "checkpoint" / "distilled-0-test.json").read_text())
    assert 0 <= alone <= 1 and (tmp_path / "out" / "report.html").exists()
    cifar_nets.create("cifar_resnet8", classes=3, channels=1).load_state_dict(
        load_file(tmp_path / "out" / "student.safetensors")
    )


def test_cached_low_precision_teacher(small, tmp_path):
    arguments = [*small, "--teacher", "vit_mini", "--no-baseline", "--epochs", "1", "--augment", "none"]
    arguments += ["--teacher-cache", str(tmp_path / "cache"), "--precision", "bf16-mixed"]
    arguments += ["--teacher-precision", "bfloat16", "--reduction", "mean_hw", "--label-smoothing", "0.1"]
    assert main(["distill", "scale_kd", *arguments, "--out", str(tmp_path / "out")]) == 0
    assert len(kdfast.TeacherCache(tmp_path / "cache")) > 0


BAD = [
    (["--teacher", "resnet10t"], "--teacher resnet10t: the teacher must be a Swin"),
    (["--alpha", "2"], "option --alpha"),
    (["--student-taps", "stages.1"], "option --student-taps: PATH,PATH is needed"),
    (["--student-taps", "layer2,layer9"], "no module 'layer9'"),
    (["--student", "test_convnext"], "--student test_convnext: Calculated padded input size"),
    (["--teacher-epochs", "0"], "--teacher swin_mini has fresh weights"),
    (["--teacher-train-mode", "--augment", "none", "--teacher-cache", "x"], "has no fixed outputs to keep"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD)
def test_bad_input_is_one_line(arguments, sentence, small, tmp_path, capsys):
    given = [*small, "--no-baseline", *arguments, "--out", str(tmp_path / "out")]
    assert main(["distill", "scale_kd", *given]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.strip().count("\n") == 0, err
