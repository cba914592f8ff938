"""`kdfast distill clock_distill` on a few pictures: what it writes, interrupted and resumed, bad options."""

import coco_folder
import pytest
import safetensors.torch
import torch

from kdfast.cli import main
from kdfast.recipes.clock_distill import Options, build_detr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coco_folder.write(tmp_path_factory.mktemp("coco"))


def arguments(folder, *more: str) -> list[str]:
    options = {
        "data": "coco",
        "data-root": folder,
        "short-side": 48,
        "long-side": 64,
        "dim": 32,
        "queries": 8,
    }
    options |= {"teacher-backbone": "mobilenet_v2_0.25", "student-backbone": "mobilenet_v2_0.25", "seeds": 1}
    options |= {"decoder-layers": 2, "denoising": 6, "teacher-epochs": 1, "epochs": 2, "threads": 1}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["distill", "clock_distill", *flags, "--teacher-weights", "null", "--progress", "none", *more]


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("clock") / "straight"
    assert main(arguments(folder, "--out", str(out))) == 0
    return out


def test_run_writes_what_it_should(straight):
    records = coco_folder.history(straight)
    assert [(r["stage"], r["epoch"]) for r in records] == [("teacher", 1)] + [
        (stage, epoch) for stage in ("student-0", "distilled-0") for epoch in (1, 2)
    ]
    last = records[-1]
    assert set(last["terms"]) == {"task", "lcmd", "tcld"}
    weights = {"task": 1.0, "lcmd": Options().memory_weight, "tcld": Options().logit_weight}
    total = sum(weights[name] * value for name, value in last["terms"].items())
    assert last["loss"] == pytest.approx(total, rel=1e-4)
    assert 0 <= last["val_AP"] <= 1
    page = (straight / "report.html").read_text()
    assert all(
        words in page for words in ("student alone", "distilled student", "plain PyTorch", "annotated")
    )
    assert page.count("data:image/png") == 4 * 4


def test_student_file_is_a_transformers_model(straight):
    """What is exported knows nothing of the distillation."""
    sizes = {"dim": 32, "encoder_layers": 1, "decoder_layers": 2, "queries": 8, "denoising": 6}
    student = build_detr("rt_detr", 3, backbone="mobilenet_v2_0.25", **sizes)
    student.load_state_dict(safetensors.torch.load_file(straight / "student.safetensors"))
    state = torch.load(straight / "checkpoint" / "distilled-0.ckpt", weights_only=True)["state_dict"]
    assert not any("teacher" in name for name in state)
    assert any(name.startswith("queries.") for name in state)  # the constant queries survive a resume


@pytest.mark.slow
def test_interrupted_and_resumed_is_the_same_to_the_bit(straight, folder, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        coco_folder.interrupt_after(patch, "distilled-0")
        assert main(arguments(folder, "--out", str(out))) == 130
    assert not (out / "report.html").exists()
    assert main(["distill", "clock_distill", "--resume", str(out)]) == 0
    assert coco_folder.history(out) == coco_folder.history(straight)
    name = "student.safetensors"
    assert (out / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_images(folder, tmp_path):
    out = tmp_path / "two"
    more = ["--epochs", "1", "--no-baseline", "--batch-size", "1", "--out", str(out)]
    coco_folder.on_two_processes(arguments(folder, *more))
    records = coco_folder.history(out)
    assert [(r["stage"], r["step"]) for r in records] == [("teacher", 3), ("distilled-0", 3)]
    assert (out / "student.safetensors").exists() and (out / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["dab_detr", "deformable_detr"])
def test_other_architectures_run(folder, tmp_path, architecture):
    more = ["--architecture", architecture, "--epochs", "1", "--no-baseline", "--out", str(tmp_path / "out")]
    assert main(arguments(folder, *more)) == 0


@pytest.mark.parametrize(
    "more, words",
    [
        (["--dim", "40"], "--dim: a multiple of 32"),
        (["--content", "teacher", "--architecture", "dab_detr"], "--content: 'teacher' needs"),
        (["--data-root", "nowhere"], "nowhere is no folder"),
        (["--classes", "[disc, lamp]"], "lamp"),
        (["--student-backbone", "vgg"], "backbone 'vgg': one of"),
        (["--alpha", "-1"], "--alpha: 0 or more"),
    ],
)
def test_bad_options_are_one_line(folder, tmp_path, capsys, more, words):
    assert main(arguments(folder, "--out", str(tmp_path / "out"), *more)) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1
