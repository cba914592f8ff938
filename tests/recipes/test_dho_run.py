"""`kdfast distill dho` with a tiny CLIP on the 8 x 8 digits: its folder, resume, two processes, bad input."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from kdfast.cli import main
from kdfast.recipes import dho
from kdfast.recipes.common import builtin_images
from kdfast.recipes.common.data import DataUnavailable
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.parse import parse
from kdfast.recipes.dho import recipe
from kdfast.recipes.dho.share import loss_share

SMALL = ["--data", "digits", "--label-share", "0.1", "--seeds", "1", "--epochs", "2", "--batch-size", "128"]


SMALL += ["--alpha", "-1", "--beta", "-1", "--student", "cifar_resnet8", "--image-size", "8"]


SMALL += ["--device", "cpu", "--progress", "none"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> str:
    """A CLIP of two blocks with random weights, as save_pretrained writes it."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789."
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    end = len(words) - 1
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": end + 1, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    config = transformers.CLIPConfig(
        text_config=small | text, vision_config=small | {"image_size": 16, "patch_size": 8}, projection_dim=8
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    return f"transformers:{folder}"


def history(out: Path) -> list[dict]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in record.items() if key not in ("ms", "seconds")} for record in records
    ]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, clip) -> Path:
    out = tmp_path_factory.mktemp("dho") / "straight"
    arguments = [*SMALL, "--teacher", clip, "--teacher-view", "plain", "--tip-adapter", "--tip-views", "2"]
    assert main(["distill", "dho", *arguments, "--out", str(out)]) == 0
    return out


def test_folder_and_metrics(straight):
    names = {path.name for path in straight.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "student.safetensors", "report.html", "teacher_cache"}
    records = history(straight)
    assert [r["stage"] for r in records] == ["student-0"] * 2 + ["single-0"] * 2 + ["distilled-0"] * 2
    last = records[-1]
    assert set(last["terms"]) == {"ce", "kd_labeled", "kd_unlabeled"} and -1 <= last["gradient_cosine"] <= 1
    assert last["loss"] == pytest.approx(0.5 * sum(last["terms"].values()), rel=1e-4)
    assert len({r["step"] for r in records if r["epoch"] == 2}) == 1, "all students take as many steps"


def test_weights_hold_both_heads(straight):
    weights = safetensors.torch.load_file(straight / "student.safetensors")
    assert weights["head.ce_head.weight"].shape == weights["head.kd_head.weight"].shape == (10, 64)


def test_numbers_are_chosen_on_validation(straight):
    found = json.loads((straight / "checkpoint" / "distilled-0-test.json").read_text())
    assert set(found) == {"accuracy", "alpha", "beta", "heads"}
    assert found["alpha"] in dho.ALPHAS and found["beta"] in dho.BETAS
    report = (straight / "report.html").read_text()
    for part in (
        "Validation accuracy over alpha and beta",
        "Reliability",
        "Gradient conflict",
        "The two heads",
    ):
        assert part in report


def test_alpha_and_beta_are_the_papers_for_each_kind_of_run():
    """0.5 and 0.5 with a share of the labels, searched with shots; what is given stands."""
    assert [(o.alpha, o.beta) for o in (recipe.Options(), recipe.Options(shots=4))] == [(0.5, 0.5), (-1, -1)]
    given = recipe.Options(alpha=0.3, beta=2.0, shots=4)
    assert (given.alpha, given.beta) == (0.3, 2.0)


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same_to_the_bit(straight, clip, tmp_path):
    out = tmp_path / "killed"
    arguments = [*SMALL, "--teacher", clip, "--teacher-view", "plain", "--tip-adapter", "--tip-views", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kdfast.cli", "distill", "dho", *arguments, "--out", str(out)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    checkpoint = out / "checkpoint" / "distilled-0.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert checkpoint.exists() and not (out / "report.html").exists(), "it was to be killed half-way"
    assert main(["distill", "dho", "--resume", str(out)]) == 0
    assert history(out) == history(straight)
    name = "student.safetensors"
    assert (out / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_batches(clip, tmp_path):
    """Under torchrun: half the steps, and the teacher's outputs of the rows that each process has."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "kdfast.cli"]
    given = [*SMALL, "--teacher", clip, "--teacher-view", "plain", "--epochs", "1", "--no-single-head"]
    out = tmp_path / "out"
    done = subprocess.run(
        [*start, "distill", "dho", *given, "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    records = history(out)
    assert [record["stage"] for record in records] == ["student-0", "distilled-0"]
    unlabeled = 1257 - 126  # of the digits' training images
    assert {record["step"] for record in records} == {-(-unlabeled // (2 * 128))}
    assert (out / "student.safetensors").exists() and (out / "report.html").exists()


def test_clip_student_with_aligned_text_heads(clip, tmp_path):
    out = tmp_path / "out"
    arguments = [*SMALL, "--student", clip, "--teacher", clip, "--align-kd", "--init-text", "--epochs", "1"]
    arguments += ["--no-baseline", "--no-single-head", "--alpha", "0.5", "--beta", "0.5", "--unit-weights"]
    arguments += ["--precision", "bf16-mixed", "--teacher-precision", "bfloat16", "--teacher-view", "same"]
    arguments += ["--shots", "2", "--separate"]
    assert main(["distill", "dho", *arguments, "--out", str(out)]) == 0
    assert json.loads((out / "checkpoint" / "distilled-0-test.json").read_text())["alpha"] == 0.5


BAD = [
    (["--teacher", "clip"], "--teacher clip: conse, mobilenet, open_clip:MODEL@FILE or transformers:FOLDER"),
    (["--teacher", "transformers:/nowhere"], "a folder with config.json is needed"),
    (["--teacher", "open_clip:RN51@x.pt"], "open_clip has no model of that name"),
    (["--teacher", "open_clip:RN50@x.pt"], "there is no file x.pt"),
    (["--lam", "2"], "option --lam"),
    (["--alpha", "0.5"], "give both"),
    (["--templates", "[a photo]"], "option --templates"),
    (["--init-text"], "--init-text: the student must be a vision-language model"),
    (["--shots", "500"], "has fewer training images"),
    (["--student", "resnet1"], "there is no such network"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD)
def test_bad_input_is_one_line(arguments, sentence, clip, tmp_path, capsys):
    given = [*SMALL, "--teacher", clip, *arguments, "--out", str(tmp_path / "out")]
    assert main(["distill", "dho", *given]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.strip().count("\n") == 0, err


def test_measuring_the_share_leaves_the_student_alone(straight, clip, monkeypatch):
    """The steps that are timed must not move the batch norms' statistics, which the report looks at next."""
    arguments = [*SMALL, "--teacher", clip, "--teacher-view", "plain", "--tip-adapter", "--tip-views", "2"]
    options, _ = parse("dho", dho, arguments)
    study = recipe.DhoStudy(options, RunFolder.open(straight))
    study.seed(0)
    before = {key: value.clone() for key, value in study.networks["distilled"].state_dict().items()}
    monkeypatch.setattr(study.out, "result", lambda name, compute: compute())
    loss_share(study)
    after = study.networks["distilled"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_without_debian_the_animals_serve(monkeypatch, capsys):
    def fails(*_):
        raise DataUnavailable("no apt-get")

    monkeypatch.setattr(builtin_images, "load", fails)
    options = recipe.Options()
    options.prepare()
    assert (options.data, options.teacher, options.teacher_view) == ("animals", "mobilenet", "plain")
    assert capsys.readouterr().out.count("\n") == 1
