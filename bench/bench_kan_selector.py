"""KANSelector's fit on 5,000 x 100, against the same selector and the paper's loop on efficient-kan's form.

A step is a fit of five epochs, scaling and scores included. The same selector: kdfast's code, with every
layer's forward replaced. The paper's loop: a DataLoader of batches of 64 and torch's default Adam, as its
code has it.
"""

from collections.abc import Callable
from unittest.mock import patch

import harness
import kan_layers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from kdfast.nn import KAN, KANLinear
from kdfast.select import KANSelector

ROWS, FEATURES, EPOCHS = 5000, 100, 5


def efficient_forward(layer: KANLinear, x: Tensor) -> Tensor:
    """KANLinear's forward in efficient-kan's form."""
    weights = layer.spline_weight, layer.spline_scaler, layer.base_weight
    return kan_layers.efficient_kan(x, *weights, layer.grid, layer.degree)


def on_efficient_kan(step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with patch.object(KANLinear, "forward", efficient_forward):
            step()

    return run


def papers_loop(x: np.ndarray, y: np.ndarray, grid_size: int, degree: int) -> None:
    """Training as the paper's code does it."""
    points = torch.from_numpy(StandardScaler().fit_transform(x)).float()
    rows = DataLoader(TensorDataset(points, torch.from_numpy(y)), batch_size=64, shuffle=True)
    model = KAN([FEATURES, 2 * FEATURES + 1, 2], grid_size=grid_size, degree=degree)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for inputs, target in rows:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), target).backward()
            optimizer.step()


@pytest.mark.parametrize(("grid_size", "degree"), [(2, 1), (5, 3)])
def test_kan_selector(benchmark, grid_size, degree):
    random = np.random.default_rng(0)
    x = random.standard_normal((ROWS, FEATURES))
    y = (x[:, :5].sum(1) > 0).astype(np.int64)
    shape = {"grid_size": grid_size, "degree": degree}

    def fit() -> None:
        KANSelector(max_epochs=EPOCHS, random_state=0, **shape).fit(x, y)

    case = harness.Case(
        op="kan_selector",
        name=f"{ROWS}x{FEATURES} G{grid_size} k{degree}",
        providers=[
            harness.Provider("kdfast", fit),
            harness.Provider("the same on efficient-kan's form", on_efficient_kan(fit)),
            harness.Provider(
                "the paper's loop on efficient-kan's form",
                on_efficient_kan(lambda: papers_loop(x, y, **shape)),
            ),
        ],
        minimum_bytes=EPOCHS * ROWS * FEATURES * 4,
    )
    harness.compare(case, benchmark)
