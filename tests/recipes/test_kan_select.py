"""`kdfast distill kan_select`: the rankings, the two protocols, the folder, resume, and bad input."""

import json

import numpy as np
import pytest
import safetensors.torch
import yaml

from kdfast.cli import main
from kdfast.recipes import kan_select
from kdfast.recipes.kan_select import protocol, rankings, tables
from kdfast.recipes.kan_select.predictors import PREDICTORS, predictor
from kdfast.recipes.kan_select.published import BARS
from kdfast.recipes.kan_select.summary import level_mean, overlap, ranks, redundancy

SMALL = ["--rows", "60", "--folds", "2", "--epochs", "1", "--trees", "4", "--device", "cpu"]
SETTING = protocol.Setting(
    selectors=("l1", "mi"), predictors=("linear",), levels=(20, 40), trees=4, criterion="coefficient",
    epochs=1, lr=1e-3, batch_size=64,
)  # fmt: skip


def planted(task: str, seed: int = 0) -> tables.Table:
    """Column 1 decides; the other five are noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(160, 6))
    y = x[:, 1] + 0.1 * rng.normal(size=160)
    y = (y > 0).astype(np.int64) + (y > 1) if task == "classification" else y
    return tables.Table("planted", task, x, y, tuple("abcdef"), "generated")


@pytest.mark.parametrize("name", rankings.OTHERS)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_other_selectors_find_a_planted_column(name, task):
    table = planted(task)
    found = rankings.importances(name, rankings.Rows(table.x, table.y, task), seed=0, trees=10)
    assert found.argmax() == 1 and found.min() >= 0 and found.sum() == pytest.approx(1)
    assert rankings.best_first(np.array([0.0, 3, 3, 1])).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize(("percent", "counts"), [
    (20, (2, 3, 6, 13)), (40, (4, 6, 12, 26)), (60, (6, 8, 18, 39)),
])  # fmt: skip
def test_how_many_features_are_kept(percent, counts):
    assert tuple(protocol.kept(percent, d) for d in (10, 13, 30, 64)) == counts


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_clean_ranking_has_not_seen_the_test_rows(task):
    table = planted(task)
    train, test = protocol.folds(table, 2, 0)[0]
    first = protocol.clean_fold(table, train, test, SETTING, 0)
    x = table.x.copy()
    x[test] = np.random.default_rng(1).normal(size=x[test].shape) * 100
    again = protocol.clean_fold(
        tables.Table("spoilt", task, x, table.y, table.columns, ""), train, test, SETTING, 0
    )
    assert first["rankings"] == again["rankings"] and first["scores"] != again["scores"]
    assert first["rankings"]["mi"][0] == 1


def test_the_papers_protocol_scores_all_its_columns():
    table = planted("classification")
    setting = protocol.Setting(**{**vars(SETTING), "selectors": ("l1", "l2", "si", "ko")})
    found = protocol.paper_scores(table, protocol.folds(table, 2, 0), setting, 0)
    assert set(found["scores"]) == {"all", "l1", "l2", "si", "ko"}
    assert set(found["scores"]["ko"]["linear"]) == {"20", "40"}


@pytest.mark.parametrize("name", PREDICTORS)
def test_predictors_learn(name):
    for task in ("classification", "regression"):
        table = planted(task)
        model = predictor(name, task, trees=30, seed=0, scale=name == "linear")
        assert model.fit(table.x[:120], table.y[:120]).score(table.x[120:], table.y[120:]) > 0.7


def test_numbers_of_the_report():
    def fold(ranking, score):
        return {"rankings": {"mi": ranking}, "scores": {
            "all": {"linear": {"100": 0.9}}, "mi": {"linear": {"20": score, "40": 0.5}},
            "l1": {"linear": {"20": 0.1}},
        }}  # fmt: skip

    folds = [fold([0, 1, 2, 3], 0.7), fold([0, 2, 1, 3], 0.8)]
    assert level_mean(folds, "mi") == pytest.approx(0.625)
    assert level_mean(folds, "mi", level=20) == pytest.approx(0.75)
    assert level_mean(folds, "all", level=20) == pytest.approx(0.9)
    assert overlap(folds, "mi", 50, 4) == pytest.approx(1 / 3)
    assert ranks({"a": folds}, ["mi", "l1"]) == {"mi": 1, "l1": 2}
    x = np.array([[0.0, 0, 1, 5], [1, 2, 0, 5], [2, 4, 1, 5]])
    assert redundancy(x, [fold([0, 1, 2, 3], 0)], "mi", 50) == pytest.approx(1)


def test_published_bars_have_nine_rows_of_four():
    assert all(len(bars) == 9 and all(len(row) == 4 for row in bars.values()) for bars in BARS.values())
    assert BARS["diabetes"]["ko"] == {"boosting": 0.394, "linear": 0.388, "forest": 0.370, "xgboost": 0.280}


def test_keels_format(monkeypatch):
    text = b"@relation r\n@attribute a real [0, 1]\n@attribute b real\n@attribute class {M, R}\n@data\n" + (
        b"0.02, 0.5, M\n0.1, 1e-3, R\n\n"
    )
    monkeypatch.setattr(tables, "fetch", lambda *_: text)
    table = kan_select.load("sonar")
    assert table.x.tolist() == [[0.02, 0.5], [0.1, 1e-3]] and table.y.tolist() == [0, 1]
    assert table.columns == ("a", "b")


def test_a_persons_table(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("age,kind,out\n1,b,yes\n2,a,no\n3,b,yes\n,a,no\n")
    with pytest.raises(kan_select.tables.UserError, match="line 5.*--skip-bad"):
        kan_select.read_csv(str(path), "out")
    with pytest.raises(kan_select.tables.UserError, match="--target what.*age, kind, out"):
        kan_select.read_csv(str(path), "what")
    table = kan_select.read_csv(str(path), "out", skip_bad=True)
    assert table.task == "classification" and table.y.tolist() == [1, 0, 1]
    assert table.x.tolist() == [[1, 1], [2, 0], [3, 1]]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("select") / "out"
    options = ["--sets", "wine,diabetes", "--protocol", "both", "--out", str(out)]
    assert main(["distill", "kan_select", *SMALL, *options]) == 0
    return out


def scores(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_the_folder_and_the_report(straight):
    names = {"config.yaml", "metrics.jsonl", "checkpoint", "student.safetensors", "report.html"}
    assert {path.name for path in straight.iterdir()} == names
    assert yaml.safe_load((straight / "config.yaml").read_text())["sets"] == "wine,diabetes"
    assert [r["stage"] for r in scores(straight)] == [
        "clean-wine", "clean-wine", "clean-diabetes", "clean-diabetes", "paper-wine", "paper-diabetes",
    ]  # fmt: skip
    weights = safetensors.torch.load_file(straight / "student.safetensors")
    assert weights["wine.0.spline_weight"].shape == (27, 13, 3)
    page = (straight / "report.html").read_text()
    assert all(words in page for words in ("KAN-KO", "SVM-RFE", "macro-F1", "R²", "(0.388)", "stability"))
    assert page.count("data:image/svg+xml") == 4


def test_resumed_half_way_is_the_same(straight, tmp_path):
    out = tmp_path / "resumed"
    (out / "checkpoint").mkdir(parents=True)
    for name in ("config.yaml", "checkpoint/clean-wine-0.json"):
        (out / name).write_bytes((straight / name).read_bytes())
    lines = (straight / "metrics.jsonl").read_text().splitlines(keepends=True)
    (out / "metrics.jsonl").write_text("".join(lines[:2]))  # the second fold's result was lost
    assert main(["distill", "kan_select", "--resume", str(out)]) == 0
    assert scores(out) == scores(straight)
    assert (out / "student.safetensors").read_bytes() == (straight / "student.safetensors").read_bytes()


@pytest.mark.parametrize(("options", "words"), [
    (["--sets", "iris"], "--sets"), (["--folds", "1"], "--folds"), (["--retention", "0"], "--retention"),
    (["--predictors", "svm"], "--predictors"), (["--rows", "3"], "--rows"),
    (["--table", "x.csv"], "--target"),
    (["--table", "none.csv", "--target", "y"], "none.csv"), (["--protocol", "fair"], "--protocol"),
])  # fmt: skip
def test_bad_options_are_one_line(options, words, tmp_path, capsys):
    assert main(["distill", "kan_select", *options, "--out", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "o").exists()
