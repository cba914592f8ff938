"""`kdfast distill kan_student`: options and the order of the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import TensorDataset

from kdfast.recipes.common.classify import adamw_one_cycle
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.options import RunOptions, require_positive
from kdfast.recipes.common.ranks import say
from kdfast.recipes.common.stage import train_stage
from kdfast.recipes.common.weights import save_weights
from kdfast.recipes.kan_select.tables import TABLES, Table, load, read_csv
from kdfast.recipes.kan_student.student import TableStudent, fit_inputs, student_network
from kdfast.recipes.kan_student.teachers import fitted, make_teacher, out_of_fold, outputs


@dataclass(kw_only=True)
class Options(RunOptions):
    """Options of `kdfast distill kan_student`."""

    data: str = "satimage"
    """a data set of `kdfast distill kan_select`, such as spambase, optdigits or compactiv"""

    table: str = ""
    """your own CSV file, with a header, in place of the data set"""

    target: str = ""
    """the column of --table to predict"""

    teacher: Literal["boosting", "mlp"] = "boosting"
    """gradient-boosted trees, or a multilayer perceptron"""

    trees: int = 100
    """boosting rounds, or passes of the MLP"""

    rows: int = 2000
    """rows of the data at most, 0 for all"""

    hidden: int = 8
    """units of the student's hidden layer"""

    grid_size: int = 5
    """intervals of its splines, which are cubic"""

    alpha: float = 0.7
    """share of the teacher in the loss"""

    temperature: float = 2.0
    """T, softens the class probabilities of both"""

    epochs: int = 20
    """passes of each student"""

    batch_size: int = 64
    """rows a step"""

    lr: float = 0.02
    """peak learning rate (AdamW, one cycle)"""

    weight_decay: float = 0.01
    """of AdamW"""

    threads: int = 1
    """CPU threads of each process"""

    seeds: int = 3
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(trees=self.trees, hidden=self.hidden, grid_size=self.grid_size, epochs=self.epochs)
        require_positive(batch_size=self.batch_size, lr=self.lr, temperature=self.temperature)
        if not 0 < self.alpha <= 1:
            raise ValueError(f"option --alpha: above 0 and at most 1 is needed, got {self.alpha}")
        if self.rows != 0 and self.rows < 100:
            raise ValueError(f"option --rows: 100 or more is needed, or 0 for all, got {self.rows}")
        if bool(self.table) != bool(self.target):
            raise ValueError("options --table and --target: both are needed, or neither")
        if self.data not in TABLES:
            raise ValueError(f"option --data: one of {', '.join(TABLES)} is needed, got {self.data!r}")

    def prepare(self) -> None:
        """Fetch or read the data before the run's folder is made."""
        read(self)


def read(options: Options) -> Table:
    """The run's data. Raises UserError if it is not to be had or too small."""
    if options.table:
        table = read_csv(options.table, options.target, skip_bad=options.skip_bad)
    else:
        table = load(options.data)
    table = table.sample(options.rows, options.seed)
    smallest = np.bincount(table.y).min() if table.task == "classification" else len(table.y)
    if len(table.y) < 100 or smallest < 10:
        raise UserError(
            f"{table.name} has {len(table.y)} rows, {smallest} in the smallest class; 100 and 10 are needed"
        )
    return table


@dataclass(frozen=True)
class Split:
    """Features and targets of one part; values in units of the training rows' spread."""

    x: np.ndarray  # [n, d] float32
    y: np.ndarray  # [n] int64 or float32


@dataclass(frozen=True)
class Study:
    """60 % training, 20 % validation and 20 % test rows."""

    table: Table
    train: Split
    validation: Split
    test: Split

    @property
    def outputs(self) -> int:
        return int(self.table.y.max()) + 1 if self.table.task == "classification" else 1


def split(table: Table, seed: int) -> Study:
    """Shuffled, by class in classification."""
    labels = table.task == "classification"
    rest, test = _cut(np.arange(len(table.y)), table.y if labels else None, 0.2, seed)
    train, validation = _cut(rest, table.y[rest] if labels else None, 0.25, seed)
    y = table.y.astype(np.int64)
    if not labels:
        centre, spread = table.y[train].mean(), table.y[train].std() or 1.0
        y = ((table.y - centre) / spread).astype(np.float32)
    x = table.x.astype(np.float32)
    return Study(table, *(Split(x[rows], y[rows]) for rows in (train, validation, test)))


def _cut(rows: np.ndarray, classes: np.ndarray | None, share: float, seed: int) -> list[np.ndarray]:
    return train_test_split(rows, test_size=share, random_state=seed, stratify=classes)


def run(options: Options, out: RunFolder) -> None:
    """The teacher, the students alone and distilled, student.safetensors (of the first seed), the report."""
    from kdfast.recipes.kan_student.report import write_report

    study = split(read(options), options.seed)
    table = study.table
    teacher = make_teacher(options.teacher, table.task, trees=options.trees, seed=options.seed)
    said = out_of_fold(teacher, study.train.x, study.train.y, seed=options.seed)
    teacher = fitted(teacher, study.train.x, study.train.y)
    scores: dict[str, list[float]] = {"teacher": [], "student": [], "distilled": []}
    first: dict[str, nn.Module] = {}  # the networks of the first seed

    def test(name: str, stage: str, predicted: np.ndarray) -> None:
        score = out.result(f"{stage}-test", lambda: score_of(table.task, predicted, study.test.y))
        scores[name].append(score)
        say(f"{stage:<14} test {'accuracy' if table.task == 'classification' else 'R²'} {score:.3f}")

    test("teacher", "teacher", outputs(teacher, study.test.x))
    for seed in options.seed_list():
        for name in ("student", "distilled") if options.baseline else ("distilled",):
            network = _train(options, out, study, said, name, seed)
            test(name, f"{name}-{seed}", network_outputs(network, study.test.x))
            first.setdefault(name, network)
    _save(options, out, study, first["distilled"])
    write_report(out, options, study, teacher, scores, first)


def _train(
    options: Options, out: RunFolder, study: Study, said: np.ndarray, name: str, seed: int
) -> nn.Module:
    """The network of the stage: alone and distilled start from the same weights and see the same rows."""
    task, train = study.table.task, study.train
    shape = train.x.shape[1], options.hidden, study.outputs

    def build() -> TableStudent:
        network = student_network(*shape, grid_size=options.grid_size)
        fit_inputs(network, torch.from_numpy(train.x))
        optimize = adamw_one_cycle(options.lr, options.weight_decay)
        alpha = options.alpha if name == "distilled" else 0.0
        return TableStudent(
            network, task, study.outputs, optimize, alpha=alpha, temperature=options.temperature
        )

    unused = np.zeros((len(study.validation.y), study.outputs), np.float32)  # the teacher is not validated
    data = EpochData(
        _dataset(train, said),
        _dataset(study.validation, unused),
        batch_size=options.batch_size,
        workers=options.workers,
        drop_last=len(train.y) > options.batch_size,
    )
    stage = f"{name}-{seed}"
    return train_stage(
        out, stage, build, data, options, epochs=options.epochs, seed=seed, draws="student"
    ).network


def _dataset(part: Split, said: np.ndarray) -> TensorDataset:
    return TensorDataset(*(torch.from_numpy(array) for array in (part.x, said, part.y)))


@torch.no_grad()
def network_outputs(network: nn.Module, x: np.ndarray) -> np.ndarray:
    """The outputs [n, C] of a student."""
    return network.eval()(torch.from_numpy(x)).numpy()


def score_of(task: str, predicted: np.ndarray, y: np.ndarray) -> float:
    """Accuracy, or R²."""
    if task == "classification":
        return float((predicted.argmax(1) == y).mean())
    return float(r2_score(y, predicted[:, 0]))


def _save(options: Options, out: RunFolder, study: Study, network: nn.Module) -> None:
    shape = study.train.x.shape[1], options.hidden, study.outputs
    made = f"kdfast.recipes.kan_student.student_network{shape}"
    if options.grid_size != 5:
        made = f"{made[:-1]}, grid_size={options.grid_size})"
    facts: dict[str, Any] = {"recipe": "kan_student", "network": made, "data": study.table.source}
    save_weights(out, "student.safetensors", network, facts)


def teacher_size(teacher: BaseEstimator) -> str:
    """How many trees, or weights of the MLP."""
    if hasattr(teacher, "n_trees_per_iteration_"):
        return f"{teacher.n_iter_ * teacher.n_trees_per_iteration_:,} trees"
    network = teacher[-1]
    return f"{sum(array.size for array in (*network.coefs_, *network.intercepts_)):,}"
