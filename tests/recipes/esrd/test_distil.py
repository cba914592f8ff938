"""Cross-fitted teachers, students that follow them, and files that give what the module gives."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.options import RunOptions
from kdfast.recipes.esrd import distil as d
from kdfast.recipes.esrd.evaluation import Platt, auroc
from kdfast.recipes.esrd.export import Deployed, export_student
from kdfast.recipes.esrd.models import Settings, network_logits
from kdfast.recipes.esrd.models.students import KANStudent, exportable, make_student

SIZES = {"hidden": 8, "layers": 1, "dropout": 0.0}
QUICK = Settings(epochs=6, lr=1e-2)


@pytest.fixture(scope="module")
def parts(signal):
    return d.split_parts(signal, seed=0)


@pytest.fixture(scope="module")
def teacher(signal, parts):
    return d.fit_teacher(signal, parts, "ensemble", QUICK, SIZES, 0)


def test_parts_are_60_20_20_and_disjoint(signal, parts) -> None:
    assert [len(p) for p in parts] == [240, 80, 80]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(400))
    rates = [signal.y[p].mean() for p in parts]
    assert max(rates) - min(rates) < 0.02


class Memory:
    """Repeats the labels of the people it was fitted on, and knows nothing of others."""

    def fit(self, x, y, weight=None):
        self.labels = {row.tobytes(): 2.0 * label - 1 for row, label in zip(x, y, strict=True)}
        return self

    def logits(self, x):
        return np.array([self.labels.get(row.tobytes(), 0.0) for row in x])


def test_no_answer_comes_from_a_model_that_has_seen_the_person(signal, parts, monkeypatch) -> None:
    monkeypatch.setattr(d, "make_model", lambda *_, **__: Memory())
    teacher = d.fit_teacher(signal, parts, "ensemble", QUICK, SIZES, 0)
    assert len(teacher.members) == 3 and np.ptp(teacher.crossed) == 0
    assert np.ptp(teacher.logits(signal.x[parts.test])) == 0
    assert np.ptp(teacher.logits(signal.x[parts.train])) > 0  # the test can fail


def test_teacher_is_the_mean_of_its_calibrated_members(signal, parts, teacher) -> None:
    x = signal.x[parts.test]
    mean = np.mean([member.logits(x) for member in teacher.members], axis=0)
    np.testing.assert_allclose(teacher.logits(x), mean)
    assert auroc(signal.y[parts.test], mean) > 0.7
    kept = teacher.answers(signal)
    assert kept["crossed"] == teacher.crossed.tolist()
    np.testing.assert_allclose(np.array(kept["logits"])[parts.test], mean)


@pytest.mark.parametrize("kind", ["gru", "kan"])
def test_a_student_of_the_teacher_alone_agrees_with_it(kind, signal, parts, teacher, tmp_path) -> None:
    """With alpha 1 a student knows no label, only the teacher's answers."""
    settings = Settings(epochs=25, lr=2e-2, alpha=1.0, temperature=1.0)
    options = RunOptions(device="cpu", progress="none")
    out = RunFolder(tmp_path)
    target = teacher.crossed
    student = d.fit_student(kind, signal, parts, target, settings, options, out, f"{kind}-distilled-0", 0)
    found = network_logits(student, signal.x[parts.test])
    assert np.corrcoef(found, teacher.logits(signal.x[parts.test]))[0, 1] > 0.85
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} == {f"{kind}-distilled-0"} and len(records) == 25
    assert records[-1]["terms"]["kl"] < 0.5 * records[0]["terms"]["kl"]


def test_judging_calibrates_on_validation_and_measures_on_test(signal, parts) -> None:
    z = 4 * np.nan_to_num(signal.x[:, -1, 0]).astype(float) + 3  # ranks well, but far too sure
    found = d.judge("z", z, signal, parts, None, 0)
    assert found.platt == Platt.fit(z[parts.validation], signal.y[parts.validation])
    np.testing.assert_allclose(found.p, expit(found.platt.slope * z[parts.test] + found.platt.intercept))
    assert found.scores["auroc"] == pytest.approx(auroc(signal.y[parts.test], z[parts.test]))
    assert found.interval[0] < found.scores["auroc"] < found.interval[1]
    worse = d.judge("noise", np.random.default_rng(0).normal(size=400), signal, parts, None, 0)
    low, high = d.gain_interval(found, worse, signal, parts, 0)
    assert 0 < low < found.scores["auroc"] - worse.scores["auroc"] < high


def test_latency_measures_every_model_at_both_sizes(signal, teacher) -> None:
    sizes = []
    runs = {"teacher": teacher.logits, "spy": lambda x: sizes.append(len(x))}
    found = d.latency(runs, signal.x)
    assert set(found) == {"teacher", "spy"} and all(len(ms) == 2 for ms in found.values())
    assert set(sizes) == {1, 256} and found["teacher"][0] > found["spy"][0]


@pytest.fixture(scope="module", params=["gru", "kan"])
def exported(request, signal, tmp_path_factory):
    """A calibrated student, its folder, and the differences of its files."""
    torch.manual_seed(0)
    student = make_student(request.param, signal.features, 4)
    student.preparer.fit(signal.x)
    model = Deployed(student.eval(), Platt(1.3, -0.4))
    out, notes = tmp_path_factory.mktemp(request.param), {"use": "research only"}
    parity = export_student(RunFolder(out), "student", model, signal.x, signal.features, notes)
    return model, out, parity


@pytest.mark.slow
def test_files_give_what_the_module_gives(exported, signal) -> None:
    model, out, parity = exported
    assert parity["torch.export"] < 2e-6 and parity.get("ONNX", 0) < 2e-6
    described = json.loads((out / "student_features.json").read_text())
    assert [f["name"] for f in described["features"]] == [f.name for f in signal.features]
    assert described["steps"] == 4 and described["step_months"] == 3 and described["use"] == "research only"
    with torch.no_grad():
        risks = model(torch.from_numpy(signal.x))
    np.testing.assert_allclose(risks, expit(1.3 * network_logits(model.network, signal.x) - 0.4), atol=1e-6)


def test_files_run_without_kdfast(exported) -> None:
    model, out, _ = exported
    if not isinstance(model.network, KANStudent):
        return  # all torch's own
    code = (
        "import sys, torch; sys.modules['kdfast'] = None\n"
        f"run = torch.export.load({str(out / 'student.pt2')!r}).module()\n"
        "print(run(torch.full((3, 4, 4), float('nan'))).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = model(torch.full((3, 4, 4), float("nan")))
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=1e-6)


def test_onnx_takes_one_person_and_many(exported, signal, need) -> None:
    need.module("onnxruntime")
    import onnxruntime

    model, out, _ = exported
    session = onnxruntime.InferenceSession(out / "student.onnx", providers=["CPUExecutionProvider"])
    for people in (1, 7, 400):
        with torch.no_grad():
            expected = model(torch.from_numpy(signal.x[:people]))
        found = session.run(["risk"], {"cells": signal.x[:people]})[0]
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_plain_kan_is_the_kan_also_beyond_its_splines(signal) -> None:
    student = make_student("kan", signal.features, 4)
    assert isinstance(student, KANStudent)
    student.preparer.fit(signal.x)
    plain, x = exportable(student), torch.from_numpy(signal.x[:9] * 3)  # beyond the splines as well
    torch.testing.assert_close(plain(x), student(x), atol=1e-5, rtol=1e-5)
    assert exportable(make_student("gru", signal.features, 4)) is not None
    with pytest.raises(ValueError, match="student must be gru or kan, got 'mlp'"):
        make_student("mlp", signal.features, 4)
