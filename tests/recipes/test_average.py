"""The moving average of weights: its equation, and that it is what is validated, kept and resumed."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdfast.cli import main
from kdfast.recipes.common.average import MovingAverage

SMALL = [
    "--data", "digits", "--teacher-epochs", "1", "--epochs", "2", "--label-share", "0.1", "--seeds", "1",
    "--no-baseline", "--method", "kd", "--ema", "0.1", "--device", "cpu", "--progress", "none",
]  # fmt: skip


def test_equation_and_swap():
    layer = nn.Linear(2, 1, bias=False)
    start = layer.weight.detach().clone()
    average = MovingAverage(list(layer.parameters()), 0.25)
    with torch.no_grad():
        layer.weight += 4
    average.update()
    average.swap()
    torch.testing.assert_close(layer.weight.detach(), start + 1)
    average.swap()
    torch.testing.assert_close(layer.weight.detach(), start + 4)
    average.keep()
    torch.testing.assert_close(layer.weight.detach(), start + 1)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    with pytest.raises(ValueError, match="momentum"):
        MovingAverage([], 1.0)


def test_average_is_kept_and_read_back(tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert main(["distill", "nd", *SMALL, "--out", str(straight)]) == 0
    state = torch.load(straight / "checkpoint" / "kd-0.ckpt", weights_only=True)["state_dict"]
    kept = load_file(straight / "student.safetensors")
    learning = [key for key in state if key.startswith("network.") and not key.endswith(BUFFERS)]
    for number, key in enumerate(learning):
        average = state[f"average.averages.{number}"]
        assert torch.equal(kept[key.partition("student.")[2]], average)
        assert not torch.equal(average, state[key])
    (resumed / "checkpoint").mkdir(parents=True)
    for name in ("config.yaml", "checkpoint/teacher.ckpt", "checkpoint/kd-0.ckpt"):
        (resumed / name).write_bytes((straight / name).read_bytes())
    assert main(["distill", "nd", "--resume", str(resumed)]) == 0
    assert (resumed / "student.safetensors").read_bytes() == (straight / "student.safetensors").read_bytes()
    scores = [json.loads((out / "checkpoint" / "kd-0-test.json").read_text()) for out in (straight, resumed)]
    assert scores[0] == scores[1]


BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "progress")


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--ema", "1"], "--ema"), (["--sync-bn"], "--sync-bn"), (["--precision", "16-mixed"], "--precision")],
)
def test_refused(given, message, tmp_path, capsys):
    assert main(["distill", "nd", *SMALL, *given, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
