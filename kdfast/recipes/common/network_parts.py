"""Places in a classifier: the layer that makes the logits, the embedding before it, the stages of a CNN."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn


def classifier_name(network: nn.Module) -> str:
    """Path of the linear layer that makes the logits. Raises ValueError where there is none."""
    found = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if hasattr(network, "get_classifier"):  # timm
        head = network.get_classifier()
        head = head[0] if isinstance(head, tuple) else head  # a distilled DeiT has two
        found = [
            name for name, module in network.named_modules() if module is head and name in found
        ] or found
    if not found:
        raise ValueError(f"{type(network).__name__} has no linear classifier")
    return found[-1]


def expose_embedding(network: nn.Module, classifier_path: str | None = None) -> tuple[str, int]:
    """-> (path for a Term or FeatureTap, width D) of the embedding [B, D]: what the classifier gets.

    classifier_path: of networks with several, such as a distilled DeiT.

    An Identity is put before the classifier, under the path `<classifier>.embedding`; it has no weights, so
    state dicts stay as they are.
    """
    path = classifier_path or classifier_name(network)
    classifier = network.get_submodule(path)
    if not hasattr(classifier, "embedding"):
        classifier.add_module("embedding", nn.Identity())
        classifier.register_forward_pre_hook(_through_embedding)
    return f"{path}.embedding", classifier.in_features


def _through_embedding(classifier: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (classifier.embedding(inputs[0]), *inputs[1:])


def stages(
    network: nn.Module, example: Tensor, *, at_most: int = 4
) -> list[tuple[str, tuple[int, int, int]]]:
    """-> (path, (C, H, W)) of the last map of each size, from large to small: the stages of a CNN.

    timm's networks say where these are. Of others, among maps of one size, the last of those that are nested
    least. Of networks that first shrink their images (by 4 for ImageNet) only the last `at_most` sizes. Maps
    [B, C, H, W] only.
    """
    declared = {
        str(info.get("module")) for info in getattr(network, "feature_info", []) if isinstance(info, dict)
    }
    found: dict[tuple[int, int], tuple[str, tuple[int, int, int]]] = {}

    def note(name: str, _: nn.Module, __: tuple, output: object) -> None:
        if not (isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1):
            return
        size = tuple(output.shape[2:])
        if size not in found or name.count(".") <= found[size][0].count("."):
            found[size] = (name, tuple(output.shape[1:]))

    modules = {name: module for name, module in network.named_modules() if name}
    chosen = [name for name in modules if name in declared] or list(modules)
    hooks = [modules[name].register_forward_hook(partial(note, name)) for name in chosen]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(example.to(next(network.parameters()).dtype))
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return sorted(found.values(), key=lambda stage: -stage[1][1])[-at_most:]
