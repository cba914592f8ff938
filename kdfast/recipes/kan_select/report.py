"""report.html of `kdfast distill kan_select`: tables, plots, and the paper's figures beside its protocol."""

from __future__ import annotations

from statistics import mean
from typing import Any

from kdfast.recipes.common import sections
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.report import Report
from kdfast.recipes.kan_select import figures
from kdfast.recipes.kan_select.predictors import LABEL
from kdfast.recipes.kan_select.protocol import ALL, Setting
from kdfast.recipes.kan_select.published import BARS
from kdfast.recipes.kan_select.rankings import CALLED, OTHERS, OURS
from kdfast.recipes.kan_select.summary import Results, level_mean, overlap, ranks, redundancy, seconds
from kdfast.recipes.kan_select.tables import Table

NAMES = {ALL: "all features", **CALLED}
_CLEAN = (
    "Features are ranked by the training rows of a fold alone, the predictor is trained on these rows, and "
    "the fold's test rows are scored once. Every number is the mean over folds, predictors and levels."
)
_LEAKY = (
    "The choice of features has seen the rows that then test it, so these scores are too high. They are here "
    "to be compared with the published ones, which come from bar charts (to about 0.002, of predictors and "
    "levels that the charts name only in part), and from generated sets of unknown seed."
)


def write_report(
    out: RunFolder, options: Any, tables: list[Table], results: dict[str, Results], setting: Setting
) -> None:
    """Write OUT/report.html."""
    report = Report("Feature selection with Kolmogorov-Arnold networks", subtitle=str(out.path))
    clean, paper = results["clean"], results["paper"]
    if clean:
        _tiles(report, tables, clean)
        _scores(report, tables, clean)
        _figures(report, tables, clean, setting)
        _choices(report, tables, clean, setting)
    if paper:
        _published(report, tables, paper)
    _data(report, tables)
    sections.add_settings(report, options)
    report.write(out)


def _of_task(tables: list[Table], results: Results, task: str) -> dict[str, list[dict[str, Any]]]:
    return {
        table.name: results[table.name] for table in tables if table.task == task and table.name in results
    }


def _selectors(results: Results) -> list[str]:
    return [name for name in NAMES if name in next(iter(results.values()))[0]["scores"]]


def _tiles(report: Report, tables: list[Table], results: Results) -> None:
    for task, metric in LABEL.items():
        found = _of_task(tables, results, task)
        if not found:
            continue
        average = {
            name: mean(level_mean(folds, name) for folds in found.values()) for name in _selectors(found)
        }
        tiles = {f"{metric}, all features": f"{average[ALL]:.3f}"}
        for group, names in (("KAN selectors", OURS), ("the others", OTHERS)):
            values = [average[name] for name in names if name in average]
            if values:
                tiles[f"{metric}, mean of {group}"] = f"{mean(values):.3f}"
        report.tiles(tiles)


def _scores(report: Report, tables: list[Table], results: Results) -> None:
    for task, metric in LABEL.items():
        found = _of_task(tables, results, task)
        if not found:
            continue
        selectors = _selectors(found)
        places = ranks(found, [name for name in selectors if name != ALL])
        values = {table: [level_mean(folds, name) for name in selectors] for table, folds in found.items()}
        values["mean"] = [mean(column) for column in zip(*values.values(), strict=True)]
        rows = [(table, *(f"{value:.3f}" for value in row)) for table, row in values.items()]
        rows.append(("mean rank", *(f"{places[n]:.1f}" if n in places else "" for n in selectors)))
        columns = ("features by", *(NAMES[name] for name in selectors))
        report.table(f"{task.capitalize()}: {metric}", columns, rows, note=_CLEAN)


def _figures(report: Report, tables: list[Table], results: Results, setting: Setting) -> None:
    for task, metric in LABEL.items():
        found = _of_task(tables, results, task)
        if not found:
            continue
        selectors = _selectors(found)
        figure = figures.by_level(found, selectors, setting.levels, metric, NAMES)
        report.figure(f"{metric} by share of features kept", figure, note=f"Mean of {len(found)} sets.")
    for task, metric in LABEL.items():
        found = _of_task(tables, results, task)
        if not found:
            continue
        chosen = [name for name in _selectors(found) if name != ALL]
        figure = figures.losses(found, chosen, NAMES)
        note = "Mean over levels and predictors; 0: as good as all features."
        report.figure(f"{metric} gained or lost against all features", figure, note=note)


def _choices(report: Report, tables: list[Table], results: Results, setting: Setting) -> None:
    """Stability, redundancy and time of each selector."""
    level = min(setting.levels, key=lambda p: abs(p - 40))
    of = {table.name: table for table in tables}
    rows = []
    for name in setting.selectors:
        shared = [overlap(folds, name, level, of[t].x.shape[1]) for t, folds in results.items()]
        alike = [redundancy(of[t].x, folds, name, level) for t, folds in results.items()]
        taken = [seconds(folds, name) for folds in results.values()]
        rows.append((NAMES[name], f"{mean(shared):.2f}", f"{mean(alike):.2f}", f"{mean(taken):.2f}"))
    whole = mean(redundancy(of[t].x, folds, ALL, level) for t, folds in results.items())
    note = (
        f"At {level} % of the features. Stability: Jaccard index of the choices of two folds. Redundancy: "
        f"mean |correlation| of two chosen features; of any two features it is {whole:.2f}. Means over the "
        "data sets."
    )
    columns = ("features by", "stability", "redundancy", "seconds to rank")
    report.table("What is chosen", columns, rows, note=note)


def _published(report: Report, tables: list[Table], results: Results) -> None:
    for table in tables:
        if table.name not in results:
            continue
        runs, bars = results[table.name], BARS.get(table.name, {})
        predictors = list(runs[0]["scores"][ALL])
        rows = []
        for name in _selectors(results):
            cells = [f"{level_mean(runs, name, p):.3f}{_beside(bars, name, p)}" for p in predictors]
            rows.append((NAMES[name], *cells))
        metric = LABEL[table.task]
        heading = f"The paper's protocol on {table.name}: {metric}, in brackets the published figure"
        report.table(heading, ("features by", *predictors), rows, note=_LEAKY)


def _beside(bars: dict[str, dict[str, float]], name: str, predictor: str) -> str:
    value = bars.get(name, {}).get(predictor)
    return "" if value is None else f" ({value:.3f})"


def _data(report: Report, tables: list[Table]) -> None:
    rows = [(t.name, t.task, f"{len(t.y):,}", t.x.shape[1], t.source) for t in tables]
    columns = ("data", "task", "rows used", "features", "from")
    report.table("Data", columns, rows)
