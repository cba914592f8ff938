"""What the recipes for images share: options, and a study over seeds with its report."""

import dataclasses
import json

import pytest
import safetensors.torch
import torch
from torch import nn

import kdfast
from kdfast.cli import main
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_options import Factor, ImageOptions
from kdfast.recipes.common.study import Study


@pytest.mark.parametrize(
    ("schedule", "values"),
    [("steps", {0: 0.25, 3: 1.0, 62: 1.0, 63: 0.1, 75: 0.01, 99: 0.001}), ("constant", {3: 1, 99: 1}),
     ("cosine", {0: 0.25, 3: 1.0, 51: 0.5081})],
)  # fmt: skip
def test_learning_rates(schedule, values):
    factor = Factor(schedule, 100, 3, (0.625, 0.75, 0.875))
    assert {step: round(factor(step), 4) for step in values} == pytest.approx(values, abs=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"label_share": 0}, "--label-share"), ({"validation_share": 1.0}, "--validation-share"),
     ({"lr": 0}, "--lr"), ({"teacher_epochs": -1}, "--teacher-epochs"),
     ({"teacher_cache": "x"}, "--augment none")],
)  # fmt: skip
def test_bad_options(given, message):
    with pytest.raises(ValueError, match=message):
        ImageOptions(**given)


def build(student, teacher, rows):
    kl = kdfast.Term(kdfast.nn.KLDivLoss(temperature=4.0), name="kl")
    return kdfast.Distiller(student, teacher, terms=[kl], task_loss=nn.CrossEntropyLoss())


def small(**given) -> ImageOptions:
    few = {"data": "digits", "teacher": "cifar_resnet8", "teacher_epochs": 1, "epochs": 1, "label_share": 0.1}
    return ImageOptions(**few | {"device": "cpu", "progress": "none", "threads": 1} | given)


def study(tmp_path, name="run", **given) -> Study:
    options = small(**given)
    out = RunFolder.create(tmp_path / name, {"recipe": "test"} | dataclasses.asdict(options))
    made = Study("test", options, out)
    made.teacher()
    return made


def test_study_trains_tests_and_reports(tmp_path):
    made = study(tmp_path, seeds=2)
    made.compare({"kl": build})
    assert {name: len(scores) for name, scores in made.scores.items()} == {
        "teacher": 1,
        "student": 2,
        "kl": 2,
    }
    made.report("Test", plain={}).write(made.out)
    page = (made.out.path / "report.html").read_text()
    assert "126 of the labels (10%)" in page and "plain PyTorch" in page
    lines = [json.loads(line) for line in (made.out.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["teacher", "student-0", "kl-0", "student-1", "kl-1"]
    assert {"data", "teacher", "student", "loss", "augment"} <= set(lines[2]["ms"])


def test_written_student_is_a_teacher_for_the_next_run(tmp_path):
    first = study(tmp_path, baseline=False)
    first.compare({"kl": build})
    file = first.out.path / "student.safetensors"
    second = study(tmp_path, "second", teacher=str(file), teacher_epochs=0)
    assert second.scores["teacher"] == first.scores["kl"]
    state = safetensors.torch.load_file(file)
    assert all(
        torch.equal(value, state[key]) for key, value in second.networks["teacher"].state_dict().items()
    )


def test_fresh_teacher_needs_epochs(tmp_path):
    with pytest.raises(UserError, match="fresh weights"):
        study(tmp_path, teacher_epochs=0)


def test_cached_teacher_gives_the_same_student(tmp_path):
    """Replayed outputs are the teacher's: same losses as with the teacher in the loop, up to rounding."""
    found = []
    for name, cache in (("plain", ""), ("cold", str(tmp_path / "cache")), ("warm", str(tmp_path / "cache"))):
        made = study(tmp_path, name, augment="none", baseline=False, teacher_cache=cache)
        made.compare({"kl": build})
        found.append(made.out.records("kl-0")[0])
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
    assert found[2]["loss"] == found[1]["loss"]
    assert "teacher" in found[0]["ms"] and "teacher" not in found[1]["ms"]


def test_unknown_recipe_option_is_one_line(capsys):
    assert main(["distill", "kd", "--label-share", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
