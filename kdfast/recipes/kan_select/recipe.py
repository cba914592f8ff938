"""`kdfast distill kan_select`: options and the order of the steps."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import torch
from torch import nn

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.common.seeds import derive
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.kan_select.predictors import PREDICTORS
from kdfast.recipes.kan_select.progress import Steps
from kdfast.recipes.kan_select.protocol import ALL, Setting, clean_fold, folds, paper_scores
from kdfast.recipes.kan_select.published import BARS
from kdfast.recipes.kan_select.rankings import OTHERS, OURS
from kdfast.recipes.kan_select.tables import TABLES, Table, load, read_csv


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill kan_select`. Sizes are a demonstration's, the paper's stand beside them."""

    sets: str = "all"
    """data sets, comma separated, or all (`python -m kdfast.recipes.kan_select` lists them)"""

    table: str = ""
    """your own CSV file, with a header, in place of the data sets"""

    target: str = ""
    """the column of --table to predict"""

    protocol: Literal["clean", "paper", "both"] = "clean"
    """choose inside each training fold (clean), or by all rows as the paper does, which leaks (paper)"""

    criterion: Literal["coefficient", "activation"] = "coefficient"
    """KAN-L1 and KAN-L2 by coefficients (the paper's text) or activations (its code); clean protocol only"""

    retention: str = "20,40,60"
    """per cent of the features to keep, comma separated"""

    predictors: str = "linear,forest"
    """models that judge a choice: linear, forest, boosting, xgboost (the paper: all four)"""

    folds: int = 3
    """of cross-validation (the paper: 5)"""

    rows: int = 500
    """rows of each set at most, 0 for all (the paper: all)"""

    trees: int = 50
    """of each forest; boosting has half, XGBoost half as many again (the paper: 200)"""

    epochs: int = 100
    """passes of each selector's network over its rows"""

    batch_size: int = 64
    """rows a step of it"""

    lr: float = 0.001
    """its learning rate (Adam)"""

    threads: int = 1
    """CPU threads; networks this small gain nothing from more"""

    baseline: bool = True
    """also rank by LASSO, mutual information, a forest and SVM-RFE"""

    seeds: int = 1
    """how often to repeat it all, with seeds SEED, SEED + 1, ... and other folds"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(trees=self.trees, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
        if self.folds < 2:
            raise ValueError(f"option --folds: 2 or more is needed, got {self.folds}")
        if self.rows != 0 and self.rows < 50:
            raise ValueError(f"option --rows: 50 or more is needed, or 0 for all, got {self.rows}")
        if bool(self.table) != bool(self.target):
            raise ValueError("options --table and --target: both are needed, or neither")
        _chosen("sets", self.set_list(), tuple(TABLES))
        _chosen("predictors", _split(self.predictors), PREDICTORS)
        for level in _split(self.retention) or [""]:
            if not (level.isdecimal() and 1 <= int(level) <= 100):
                raise ValueError(f"option --retention: per cents from 1 to 100 are needed, got {level!r}")

    def set_list(self) -> list[str]:
        """Names of the data sets."""
        return list(TABLES) if self.sets == "all" else _split(self.sets)

    def prepare(self) -> None:
        """Fetch the data, or read the table, before the run's folder is made."""
        tables(self)

    def setting(self) -> Setting:
        """What is compared."""
        return Setting(
            selectors=(*OURS, *(OTHERS if self.baseline else ())),
            predictors=tuple(_split(self.predictors)),
            levels=tuple(sorted({int(level) for level in _split(self.retention)})),
            trees=self.trees,
            criterion=self.criterion,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            device=self.torch_device(),
        )


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _chosen(option: str, given: list[str], known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        what = repr(unknown[0]) if unknown else "nothing"
        raise ValueError(f"option --{option}: some of {', '.join(known)} are needed, got {what}")


def tables(options: Options) -> list[Table]:
    """The run's data. Raises UserError if a set is not to be had or too small for the folds."""
    if options.table:
        found = [read_csv(options.table, options.target, skip_bad=options.skip_bad)]
    else:
        found = [load(name) for name in options.set_list()]
    return [_checked(table.sample(options.rows, options.seed), options) for table in found]


def _checked(table: Table, options: Options) -> Table:
    if len(table.y) < 10 * options.folds:
        raise UserError(f"{table.name} has {len(table.y)} rows; {options.folds} folds need 10 rows each")
    if table.task == "classification":
        sizes = torch.as_tensor(table.y).bincount()
        if len(sizes) < 2 or sizes.min() < options.folds:
            raise UserError(
                f"{table.name} has a class of {int(sizes.min())} rows and {len(sizes)} classes; at least two "
                f"classes of {options.folds} rows, one for each fold, are needed"
            )
    return table


def run(options: Options, out: RunFolder) -> None:
    """Every fold of every set, the networks' weights, the report. A resumed run repeats no finished fold."""
    from kdfast.recipes.kan_select.report import write_report

    data, setting = tables(options), options.setting()
    leaky = [t for t in data if t.name in BARS or options.table] if options.protocol != "clean" else []
    plans = _plans(options, data if options.protocol != "paper" else [], leaky)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {"clean": {}, "paper": {}}
    with Steps(options.progress, len(plans)) as steps:
        for kind, table, fold, seed in plans:
            result = _result(options, out, setting, kind, table, fold, seed)
            results[kind].setdefault(table.name, []).append(result)
            steps.done(f"{table.name:<20} {kind} {fold + 1}", _line(result))
    networks = _networks(options, out, data)
    facts = {"recipe": "kan_select", "method": "l1", "criterion": options.criterion}
    save_weights(out, "student.safetensors", networks, facts)
    write_report(out, options, data, results, setting)


def _plans(options: Options, clean: list[Table], leaky: list[Table]) -> list[tuple[str, Table, int, int]]:
    """(protocol, table, number of the step, seed) in the order of computing."""
    seeds = options.seed_list()
    plans = [
        ("clean", t, i, seeds[i // options.folds]) for t in clean for i in range(options.folds * len(seeds))
    ]
    return plans + [("paper", t, i, seed) for t in leaky for i, seed in enumerate(seeds)]


def _result(
    options: Options, out: RunFolder, setting: Setting, kind: str, table: Table, step: int, seed: int
) -> dict[str, Any]:
    stage = f"{kind}-{table.name}"

    def compute() -> dict[str, Any]:
        out.forget(stage, step)  # lines of a run that stopped before it kept the result
        parts = folds(table, options.folds, seed)
        drawn = derive(seed, table.name, step) % 2**31
        if kind == "paper":
            found = paper_scores(table, parts, setting, drawn)
        else:
            found = clean_fold(table, *parts[step % options.folds], setting, drawn)
        out.log({"stage": stage, "epoch": step + 1, "seed": seed, "score": means(found["scores"])})
        return found

    return out.result(f"{stage}-{step}", compute)


def means(scores: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """Selector -> mean over predictors and retention levels."""
    return {
        selector: mean(score for levels in by.values() for score in levels.values())
        for selector, by in scores.items()
    }


def _line(result: dict[str, Any]) -> str:
    return "  ".join(
        f"{name} {score:.3f}" for name, score in means(result["scores"]).items() if name in (*OURS, ALL)
    )


def _networks(options: Options, out: RunFolder, data: list[Table]) -> nn.ModuleDict:
    """The selectors' networks, trained on all rows of each set: NAME.0.spline_weight and so on."""
    from kdfast.select import KANSelector

    setting = options.setting()
    fitted = {
        table.name.replace(".", "_"): KANSelector(
            criterion=setting.criterion,
            task=table.task,
            max_epochs=setting.epochs,
            lr=setting.lr,
            batch_size=setting.batch_size,
            random_state=derive(options.seed, table.name) % 2**31,
            device=setting.device,
        )
        .fit(table.x, table.y)
        .model_
        for table in data
    }
    return nn.ModuleDict(fitted)
