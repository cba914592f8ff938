"""What part of a step the distillation losses of a detector are, kdfast beside plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from kdfast.ops.kl_div import kl_div_reference
from kdfast.ops.nd_loss import nd_loss_reference
from kdfast.recipes.common.clock import compare
from kdfast.recipes.nd.detection import Compared, NDDetector


def loss_share(trained: NDDetector, samples: list[Any], *, device: str, rounds: int = 10) -> dict[str, Any]:
    """As share.measure_share gives it, of one batch of (image, target) samples; `trained` stays as it is."""
    network = copy.deepcopy(trained).to(device).train()
    images = [image.to(device) for image, _ in samples]
    targets = [{key: value.to(device) for key, value in target.items()} for _, target in samples]
    with torch.no_grad():
        _, found = network.compare(images, targets)
    given = found._asdict()
    for name in ("logits", "features", "levels"):  # the student's, which get gradients
        given[name] = tree_map_only(Tensor, Tensor.requires_grad_, given[name])
    leaves = Compared(**given)

    def step() -> None:
        sum(network(images, targets).values()).backward()

    def losses(*functions: Callable[..., Tensor]) -> None:
        sum(network.distillation(leaves, *functions)).backward()

    plain = partial(losses, kl_div_reference, nd_loss_reference)
    times = compare({"kdfast": losses, "plain PyTorch": plain, "step": step}, rounds=rounds)
    whole = times.pop("step")
    rest = max(0.0, whole - times["kdfast"])
    return {"step": whole, "loss": times, "share": {name: ms / (rest + ms) for name, ms in times.items()}}
