"""What part of a step the distillation of the heads is, kdfast beside plain PyTorch."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from kdfast.recipes.common.clock import compare
from kdfast.recipes.common.dense.detection_set import Sample
from kdfast.recipes.dynamic_ykd import plain
from kdfast.recipes.dynamic_ykd.losses import class_distillation, distillation
from kdfast.recipes.dynamic_ykd.step import Compared, ContinualStep


def loss_share(
    trained: ContinualStep, samples: list[Sample], *, device: torch.device, rounds: int = 10
) -> dict[str, Any]:
    """As share.measure_share gives it, of one batch; `trained` has a teacher and stays as it is."""
    network = copy.deepcopy(trained).to(device).train()
    images = [image.to(device) for image, _ in samples]
    targets = [{key: value.to(device) for key, value in target.items()} for _, target in samples]
    with torch.no_grad():
        _, found = network.compare(images, targets)
    found = Compared(*tree_map_only(Tensor, Tensor.detach, tuple(found)))
    leaves = found._replace(  # the student's get gradients
        student=tree_map_only(Tensor, Tensor.requires_grad_, found.student),
        student_rpn=tree_map_only(Tensor, Tensor.requires_grad_, found.student_rpn),
    )

    def step() -> None:
        sum(network(images, targets).values()).backward()

    def ours() -> None:
        sum(distillation(*leaves, form=network.form).values()).backward()

    def in_plain() -> None:
        classes = plain.classes if network.form == "uce" else partial(class_distillation, form=network.form)
        plain.distillation(*leaves, classes=classes).backward()

    times = compare({"kdfast": ours, "plain PyTorch": in_plain, "step": step}, rounds=rounds)
    whole = times.pop("step")
    rest = max(0.0, whole - times["kdfast"])
    return {"step": whole, "loss": times, "share": {name: ms / (rest + ms) for name, ms in times.items()}}
