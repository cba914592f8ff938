"""Scores of DHO's students: alpha and beta from the options or the validation images, then one look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from kdfast.recipes.common.image_set import ImageSet
from kdfast.recipes.dho.inference import dho_predict, search_alpha_beta
from kdfast.recipes.dho.options import Options
from kdfast.recipes.dho.training import both_logits


class Scoring:
    """Looks at finished networks, called "student", "single" or "distilled"."""

    def __init__(self, options: Options, images: ImageSet) -> None:
        self.options, self.images = options, images
        self.targets = {
            part: torch.tensor([int(target) for target in _targets(getattr(images, part))])
            for part in ("validation", "test")
        }

    def look(self, name: str, network: nn.Module) -> dict[str, Any]:
        """Accuracy on the test images, the alpha and beta it was had with, and each head's alone."""
        network = network.to(self.options.torch_device())
        validation, test = (self.logits(name, network, part) for part in ("validation", "test"))
        alpha, beta = self._numbers(name, *validation)
        target = self.targets["test"]

        def share(a: float, b: float) -> float:
            return float((dho_predict(*test, a, b).argmax(1) == target).double().mean())

        heads = {"supervised": share(1.0, 1.0), "distilled": share(0.0, 1.0)}
        return {"accuracy": share(alpha, beta), "alpha": alpha, "beta": beta, "heads": heads}

    def logits(self, name: str, network: nn.Module, part: str) -> tuple[Tensor, Tensor]:
        """Of both heads on the validation or test images; of a student alone its one head's, twice."""
        wrapped = _Twice(network) if name == "student" else network
        return both_logits(wrapped, getattr(self.images, part), batch_size=self.options.batch_size)[:2]

    def _numbers(self, name: str, a: Tensor, b: Tensor) -> tuple[float, float]:
        """alpha and beta: fixed by the options, or the best on the validation logits."""
        if name != "distilled":
            return 1.0, 1.0
        if self.options.alpha != -1:
            return self.options.alpha, self.options.beta
        return search_alpha_beta(a, b, self.targets["validation"])[:2]


class _Twice(nn.Module):
    """A network's logits as if they were two heads'."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images)
        return logits, logits


def _targets(samples: Any) -> Iterator[int]:
    return (samples[row][1] for row in range(len(samples)))
