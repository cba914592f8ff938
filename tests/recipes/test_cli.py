"""The command line: what it accepts, and one line with exit status 2 for what it does not."""

import subprocess
import sys

import pytest
import yaml

import kdfast
from kdfast.cli import main
from kdfast.recipes.common.parse import plain


def refused(capsys, *arguments: str) -> str:
    """The one line that a bad command prints."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.startswith("kdfast: ") and err.count("\n") == 1, err
    assert out == ""
    return err.strip()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdfast {kdfast.__version__}\n"


def test_no_arguments_shows_commands(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("distill", "bench", "info"))


def test_a_reader_that_leaves_ends_it_quietly():
    command = [sys.executable, "-m", "kdfast", "distill"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 141


def test_distill_lists_recipes_with_their_first_line(capsys):
    assert main(["distill"]) == 0
    assert "Classic knowledge distillation" in capsys.readouterr().out


def test_help_shows_field_docstrings_and_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["distill", "kd", "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--batch-size" in text and "images a step" in text and "default: 8.0" in text
    assert "--no-baseline" in text and "--resume OUT" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["nonsense", "distill"]),
        (["distill", "nonsense"], ["nonsense", "kd"]),
        (["distill", "--out", "x"], ["recipe"]),
        (["distill", "kd", "--nonsense", "3"], ["--nonsense"]),
        (["distill", "kd", "--batch-size", "many"], ["--batch-size", "int", "many"]),
        (["distill", "kd", "--batch-size", "0"], ["--batch-size", "0"]),
        (["distill", "kd", "--batch-size"], ["--batch-size"]),
        (["distill", "kd", "--temperature", "-1"], ["--temperature", "-1"]),
        (["distill", "kd", "--temperature", "nan"], ["--temperature", "nan"]),
        (["distill", "kd", "--data", "cifar"], ["--data", "mnist", "sklearn", "cifar"]),
        (["distill", "kd", "--workers", "-1"], ["--workers", "-1"]),
        (["distill", "kd", "--seeds", "0"], ["--seeds", "0"]),
        (["distill", "kd", "--config", "missing.yaml"], ["--config", "missing.yaml"]),
        (["distill", "kd", "--resume", "missing"], ["--resume missing", "no run"]),
        (["distill", "kd", "surplus"], ["surplus"]),
        (["bench", "nonsense"], ["bench"]),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *arguments)
    assert all(word in line for word in words), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["batch_sizes: 3\n", "batch_size: [3\n", "batch_size: three\n", "recipe: nd\n"]
)
def test_bad_config_file_is_one_line(capsys, tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    refused(capsys, "distill", "kd", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_folder_of_another_run_is_kept(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text("recipe: nd\n")
    before = (tmp_path / "config.yaml").read_bytes()
    assert "another run" in refused(capsys, "distill", "kd", "--data", "sklearn", "--out", str(tmp_path))
    assert (tmp_path / "config.yaml").read_bytes() == before
    refused(capsys, "distill", "kd", "--resume", str(tmp_path))  # a run of another recipe


def test_folder_with_other_files_is_kept(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "not empty" in refused(capsys, "distill", "kd", "--data", "sklearn", "--out", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_refuses_other_options(capsys, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"recipe": "kd", "epochs": 3}))
    line = refused(capsys, "distill", "kd", "--resume", str(tmp_path), "--epochs", "4")
    assert "--epochs" in line and "3" in line


def test_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    for name in [n for n in sys.modules if n.startswith("kdfast.recipes.") and "errors" not in n]:
        monkeypatch.delitem(sys.modules, name)
    line = refused(capsys, "distill", "kd")
    assert "lightning" in line and "pip install 'kdfast[recipes]'" in line


def test_plain_error_of_our_checks_is_one_line_and_a_fault_is_not(capsys, monkeypatch):
    import torch

    import kdfast.functional as KF
    from kdfast import cli

    def bad_temperature(_):
        KF.kl_div(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0.0)

    monkeypatch.setattr(cli, "_dispatch", bad_temperature)
    assert "temperature" in refused(capsys)
    monkeypatch.setattr(cli, "_dispatch", lambda _: [][0])
    with pytest.raises(IndexError):
        main([])


def test_import_kdfast_does_not_import_the_extras():
    heavy = ["lightning", "torchvision", "timm", "jsonargparse", "matplotlib", "sklearn", "pandas"]
    code = f"import sys, kdfast, kdfast.recipes; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_message_of_literal():
    message = "Parser key \"data\":\n  Expected a typing.Literal['a', 'b']. Got value: c"
    assert plain(message) == "option --data: expected one of a, b, got c"
