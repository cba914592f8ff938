"""What part of a training step the losses are: kdfast beside plain PyTorch, on the same tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import kdfast
from kdfast.recipes.common.clock import compare


def measure_share(
    distiller: kdfast.Distiller,
    inputs: tuple[Any, ...],
    target: Any,
    plain: Mapping[str, Callable[..., Tensor]],
    *,
    rounds: int = 30,
    replay: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Time the losses of one real step, forward and backward, and the whole step.

    Args:
        distiller: trained or not; its gradients are lost. Terms whose loss is a module are measured.
        inputs, target: one batch, on the distiller's device.
        plain: term name -> the same loss in plain PyTorch, called with the same arguments. Terms that are
            not in it are computed by kdfast in both.
        replay: the teacher's outputs on this batch, where training replays them too.

    Returns:
        {"step": ms, "loss": {"kdfast": ms, "plain PyTorch": ms}, "share": {... loss / (rest of the step +
        loss)}}, medians of interleaved runs. The step is forward and backward, without data and optimizer.
    """
    call = partial(distiller, *inputs, target=target, replay=replay)
    output, arguments = _capture(distiller, call)
    ours = {term.name: term.loss for term in distiller.terms}
    total = partial(_total, distiller, output, target, arguments)
    runs = {
        "kdfast": lambda: total(ours).backward(),
        "plain PyTorch": lambda: total({**ours, **plain}).backward(),
        "step": lambda: call().loss.backward(),
    }
    loss = compare(runs, rounds=rounds)
    distiller.zero_grad()
    step = loss.pop("step")
    rest = max(0.0, step - loss["kdfast"])
    return {"step": step, "loss": loss, "share": {name: ms / (rest + ms) for name, ms in loss.items()}}


def _capture(distiller: kdfast.Distiller, call: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """The student's output, and what each term's loss is called with, cut from the networks."""
    found: dict[str, Any] = {}
    hooks = [
        term.loss.register_forward_hook(partial(_keep, found, term.name))
        for term in distiller.terms
        if isinstance(term.loss, torch.nn.Module)
    ]
    try:
        output = call().output
    finally:
        for hook in hooks:
            hook.remove()
    return tree_map_only(Tensor, _leaf, (output, found))


def _keep(found: dict[str, Any], name: str, _: torch.nn.Module, arguments: tuple, __: Tensor) -> None:
    found[name] = arguments


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _total(
    distiller: kdfast.Distiller,
    output: Any,
    target: Any,
    arguments: Mapping[str, Any],
    losses: Mapping[str, Callable[..., Tensor]],
) -> Tensor:
    terms = [
        term.weight * losses[term.name](*arguments[term.name])
        for term in distiller.terms
        if term.name in arguments
    ]
    task = [] if distiller.task_loss is None else [distiller.task_loss(output, target)]
    return torch.stack([value.sum() for value in (*task, *terms)]).sum()
