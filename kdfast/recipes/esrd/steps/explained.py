"""What the risk rests on, at the main window: one tree model and one network, fitted to everybody in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.ranks import say
from kdfast.recipes.esrd import explain
from kdfast.recipes.esrd.cohort import Task
from kdfast.recipes.esrd.models import TABULAR, TREES, make_model
from kdfast.recipes.esrd.steps.compare import main_task
from kdfast.recipes.esrd.study import Study

if TYPE_CHECKING:
    from kdfast.recipes.esrd.options import Options

PEOPLE, NETWORK_PEOPLE, BACKGROUND = 150, 60, 100  # explained by Shapley values, by gradients; drawn from


@dataclass(frozen=True)
class Explained:
    """shap: tree model, Shapley values; gradients: network, attributions [n, T, F], their sum over time."""

    shap: tuple[str, explain.Explanation] | None
    gradients: tuple[str, np.ndarray, explain.Explanation] | None


def explain_models(study: Study, options: Options, out: RunFolder) -> Explained:
    """The first tree model by Shapley values, the last network by expected gradients."""
    task = main_task(study, options)
    names = options.model_list()
    tree = next((name for name in names if name in TREES), None)
    network = next((name for name in reversed(names) if name not in TABULAR), None)
    shap = gradients = None
    if tree is not None:
        stored = out.result(f"shap-{tree}", partial(_shapley, tree, task, options))
        shap = (tree, explain.Explanation.from_json(stored))
        say(f"explained     {tree} by Shapley values")
    if network is not None:
        stored = out.result(f"gradients-{network}", partial(_gradients, network, task, options))
        total = explain.Explanation.from_json(stored["total"])
        gradients = (network, np.asarray(stored["values"]), total)
        say(f"explained     {network} by expected gradients")
    return Explained(shap, gradients)


def _rows(task: Task, options: Options) -> np.ndarray:
    return np.random.default_rng(options.seed).permutation(len(task.y))[:PEOPLE]


def _fitted(name: str, task: Task, options: Options) -> Any:
    fixed = {"settings": options.settings(), "sizes": options.sizes(), "seed": options.seed}
    return make_model(name, task.features, **fixed).fit(task.x, task.y, task.weight)


def _shapley(name: str, task: Task, options: Options) -> dict[str, Any]:
    return explain.tree_shap(_fitted(name, task, options), task.x[_rows(task, options)]).to_json()


def _gradients(name: str, task: Task, options: Options) -> dict[str, Any]:
    network = _fitted(name, task, options).network_
    people = task.x[_rows(task, options)[:NETWORK_PEOPLE]]
    background = task.x[:: max(1, len(task.x) // BACKGROUND)]
    values, total = explain.explain_network(network, people, background, task.features, draws=BACKGROUND)
    return {"values": values.tolist(), "total": total.to_json()}
