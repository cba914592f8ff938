"""`kdfast distill esrd` on few people: what it writes, resume after a stop, own tables, refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch
import yaml

from kdfast.cli import main
from kdfast.recipes import esrd, headline
from kdfast.recipes.esrd import Options
from kdfast.recipes.esrd.models.students import make_student
from kdfast.recipes.esrd.report.labels import model_name, readable
from kdfast.recipes.esrd.synthetic import make_tables, simulate, write_tables

SMALL = ["--people", "700", "--folds", "2", "--inner", "2", "--models", "logistic,xgboost,gru"]
SMALL += ["--epochs", "1", "--student-epochs", "3", "--seed", "1", "--device", "cpu", "--progress", "none"]
SMALL += ["--teacher", "lstm", "--hidden", "8"]
NO_ONNX = ("kdfast.recipes.esrd.export._onnx", lambda *_: None)  # slow; test_distil.py has it


def distill(*arguments) -> int:
    return main(["distill", "esrd", *map(str, arguments)])


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("esrd") / "straight"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*NO_ONNX)
        assert distill(*SMALL, "--out", out) == 0
    return out


def test_folder_holds_what_it_should(straight) -> None:
    files = {path.name for path in straight.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "checkpoint", "report.html"} <= files
    for student in ("student", "student-kan"):
        assert {f"{student}.safetensors", f"{student}.pt2", f"{student}_features.json"} <= files
    config = yaml.safe_load((straight / "config.yaml").read_text())
    assert config["recipe"] == "esrd" and config["people"] == 700
    stages = [json.loads(line)["stage"] for line in (straight / "metrics.jsonl").read_text().splitlines()]
    expected = [f"{kind}-{way}-1" for kind in ("gru", "kan") for way in ("alone", "distilled")]
    assert list(dict.fromkeys(stages)) == expected and len(stages) == 12


def test_student_file_is_the_exported_student(straight) -> None:
    described = json.loads((straight / "student_features.json").read_text())
    from kdfast.recipes.esrd.grid import Feature

    features = [Feature(**f) for f in described["features"]]
    student = make_student("gru", features, described["steps"]).eval()
    student.load_state_dict(safetensors.torch.load_file(straight / "student.safetensors"))
    program = torch.export.load(straight / "student.pt2").module()
    draw = torch.Generator().manual_seed(0)
    x = 40 + 10 * torch.randn(3, described["steps"], len(features), generator=draw)
    with torch.no_grad():
        p, z = program(x), student(x)
    logits = torch.log(p) - torch.log1p(-p)
    slope = (logits[0] - logits[1]) / (z[0] - z[1])  # the calibration is a line
    torch.testing.assert_close(logits[2] - logits[1], slope * (z[2] - z[1]), rtol=1e-3, atol=1e-3)
    assert 0 < described["threshold"] < 1 and described["window_months"] == 24


def test_report_has_every_section(straight) -> None:
    page = (straight / "report.html").read_text()
    sections = (
        "Read this first", "In short", "Who was studied, window of 24 months", "Records",
        "Models compared at 24 months", "95 % intervals", "Observation windows", "ROC by window",
        "Precision and recall by window", "Calibration", "Decision curves", "same people",
        "What each source of records adds", "For whom it works", "CKD stage by 2021 instead of 2009",
        "Prediction with either equation", "What drives the risk (XGBoost)", "What counts when (GRU)",
        "Who is misclassified", "Against the true risks", "Causes planted and found", "Small students",
        "Time for a prediction", "What the KAN reads", "How the KAN reads it", "Model card",
        "The published result", "Settings",
    )  # fmt: skip
    assert [s for s in sections if s not in page] == []
    assert "not a medical device" in page and "AUROC 0.93 and F1 0.65" in page
    assert page.count("data:image/svg+xml") >= 11 and "nan" not in page.lower().split("<main>")[1][:3000]
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def contents(out: Path) -> dict[str, bytes]:
    """What a resumed run must repeat: results and weights, not the times."""
    results = {p.name: p.read_bytes() for p in (out / "checkpoint").glob("*.json") if p.stem != "latency"}
    return results | {p.name: p.read_bytes() for p in out.glob("*.safetensors")}


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same_to_the_bit(straight, tmp_path, monkeypatch) -> None:
    """Finished steps are read back; those that a stop has lost are computed again, to the same bits."""
    out = tmp_path / "stopped"
    shutil.copytree(straight, out, ignore=shutil.ignore_patterns("report.html", "*.pt2", "*.onnx"))
    steps = sorted((out / "checkpoint").iterdir())
    lost, kept = steps[::4] + [out / "checkpoint" / "teacher.json"], steps[1::4]
    for path in lost:
        path.unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in kept if path.exists()}
    assert {p.suffix for p in lost} == {".json", ".ckpt"} and len(lost) > 7
    monkeypatch.setattr(*NO_ONNX)
    assert distill("--resume", out) == 0
    assert contents(out) == contents(straight)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "report.html").exists()


def test_own_tables_with_a_bad_row(tmp_path, capsys) -> None:
    """One impossible date stops the run before anything is computed; --skip-bad leaves it out and says so."""
    tables = make_tables(simulate(700, seed=1), seed=1)
    labs = tables["labs"]
    late = pl.when(pl.int_range(pl.len()) == 5).then(pl.date(1900, 1, 1)).otherwise("date").alias("date")
    write_tables(tmp_path / "in", tables | {"labs": labs.with_columns(late)}, "csv")
    own = ["--cohort", "tables", "--tables", tmp_path / "in", "--out", tmp_path / "out", *SMALL[2:]]
    assert distill(*own) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"labs: 1 of {len(labs):,} rows are dated before birth" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--window", "9"], "option --window: one of 6, 12, 18, 24, 30 is needed, got 9"),
        (["--models", "logistic,svm"], "option --models: some of logistic, random_forest"),
        (["--students", ""], "option --students: some of gru, kan are needed, got nothing"),
        (["--cohort", "tables"], "option --tables: a folder is needed with --cohort tables"),
        (["--tables", "x"], "option --tables: a folder is needed with --cohort tables, else none, got 'x'"),
        (["--folds", "1"], "option --folds: 2 or more is needed, got 1"),
        (["--alpha", "1.5"], "option --alpha: a share between 0 and 1 is needed, got 1.5"),
        (["--lr", "0"], "option --lr: a number above 0 is needed, got 0.0"),
        (["--cohort", "tables", "--tables", "nowhere"], "tables: nowhere is no folder"),
        (["--people", "60"], "-month window: "),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, capsys) -> None:
    assert distill(*arguments, "--device", "cpu", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_every_public_name_is_there() -> None:
    assert len(esrd.__all__) > 25 and all(getattr(esrd, name) is not None for name in esrd.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        esrd.nothing  # noqa: B018


def test_help_and_names() -> None:
    assert headline("esrd").startswith("Progression of chronic kidney disease to ESRD")
    assert Options().model_list() == ["logistic", "xgboost", "lstm"] and Options().probe() == "xgboost"
    assert len(Options(models="all").model_list()) == 12
    assert (
        readable("egfr_2021 (last)") == "eGFR (2021), last" and readable("n_drug") == "number of drug claims"
    )
    assert readable("heart_failure") == "heart failure" and model_name("gru") == "GRU"


def test_the_default_settings_follow_the_papers_code() -> None:
    """The modules' own defaults are the paper's; the command's are for the small synthetic cohort."""
    import inspect

    from kdfast.recipes.esrd.models import RiskNetwork, Settings

    sizes = inspect.signature(RiskNetwork).parameters
    assert [sizes[n].default for n in ("hidden", "layers", "dropout")] == [128, 2, 0.2]
    assert (Settings().lr, Settings().batch_size, Settings().clip) == (1e-3, 32, 1.0)
    assert np.isclose(Settings().gamma, 2.0)
