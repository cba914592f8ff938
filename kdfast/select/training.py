"""Train the small KAN whose first layer ranks the features.

Every random choice is drawn from one seed, on the CPU, and torch's global generators are left alone: the same
seed gives the same network, whatever ran before and beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdfast.nn import KAN

Loss = Callable[[Tensor, Tensor], Tensor]


def task_loss(task: str) -> Loss:
    """outputs [..., N, C] and targets [N] -> loss [...]: mean cross-entropy or (C = 1) mean squared error."""
    return _cross_entropy if task == "classification" else _squared_error


def _cross_entropy(outputs: Tensor, target: Tensor) -> Tensor:
    if outputs.dim() == 2:  # in training: one op where the general form is five
        return F.cross_entropy(outputs, target)
    rows = F.log_softmax(outputs, -1)
    picked = rows.gather(-1, target.expand(rows.shape[:-1]).unsqueeze(-1))
    return -picked.squeeze(-1).mean(-1)


def _squared_error(outputs: Tensor, target: Tensor) -> Tensor:
    return (outputs.squeeze(-1) - target).square().mean(-1)


def train(
    x: Tensor,
    target: Tensor,
    *,
    outputs: int,
    loss: Loss,
    hidden: int,
    grid_size: int,
    degree: int,
    place_grid: bool,
    max_epochs: int,
    lr: float,
    batch_size: int,
    regularization: float,
    seed: int,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> KAN:
    """A KAN [I, hidden, outputs] trained by Adam on x [N, I] and target [N].

    Args:
        loss: as `task_loss` gives it.
        place_grid: put the first layer's knots at quantiles of x instead of evenly in [-1, 1].
        regularization: weight of the first layer's mean |coefficient|, which makes features compete.
        report: called after every epoch with its number and mean loss.
    """
    generator = torch.Generator().manual_seed(seed)
    model = KAN([x.size(1), hidden, outputs], grid_size=grid_size, degree=degree, generator=generator)
    model = model.to(x.device)
    if place_grid:
        model[0].update_grid(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    for epoch in range(1, max_epochs + 1):
        total = x.new_zeros(())
        order = torch.randperm(x.size(0), generator=generator).to(x.device)
        for rows in order.split(batch_size):
            value = loss(model(x[rows]), target[rows])
            total += value.detach() * rows.size(0)
            if regularization:
                value = value + regularization * model[0].spline_weight.abs().mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        report(epoch, float(total) / x.size(0))
    return model.eval()
