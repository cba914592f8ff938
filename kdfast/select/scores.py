"""Four importances of the input features of a trained KAN (Akazan and Mbingui, arXiv 2509.23366).

With phi_ji(x) = base_weight_ji silu(x) + scaler_ji sum_m c_jim B_m(x), the edges of the first layer, from
feature i to hidden unit j, and f the network's outputs:

    KAN-L1  sum_jm |scaler_ji c_jim|                 coefficient, the paper's text
            mean_nj |phi_ji(x_ni)|                   activation, the paper's code
    KAN-L2  (sum_jm (scaler_ji c_jim)^2)^(1/2)       coefficient
            (mean_nj phi_ji(x_ni)^2)^(1/2)           activation
    KAN-SI  sum_c mean_n |d f_c / d x_ni|            the code has mean_n |sum_c sign(f_c) d f_c / d x_ni|
    KAN-KO  loss(f without feature i) - loss(f)      without: phi_ji = 0 for all j

Coefficients are taken with their scalers, since c alone says nothing about the size of an edge. Every
function returns raw scores [I] on the model's device and leaves the model as it is; `normalized` makes them
the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import kdfast.functional as KF
from kdfast.nn import KAN, KANLinear

_CHUNK_VALUES = 1 << 23  # hidden values that a knock-out step holds at a time: 32 MB in float32


def coefficient_score(model: KAN, order: int) -> Tensor:
    """KAN-L1 (order 1) or KAN-L2 (order 2) of the first layer's coefficients: [I]."""
    layer = model[0]
    coef = layer.spline_weight.detach()
    if layer.spline_scaler is not None:
        coef = coef * layer.spline_scaler.detach().unsqueeze(-1)
    return torch.linalg.vector_norm(coef, _checked(order), dim=(0, 2))


@torch.no_grad()
def activation_score(model: KAN, x: Tensor, order: int) -> Tensor:
    """KAN-L1 (order 1) or KAN-L2 (order 2) of what the first layer's edges do to the samples x [N, I]: [I].

    From the sums over samples of each edge; no tensor [N, hidden, I] is made.
    """
    mean_abs, mean_square, _ = model[0].edge_stats(x)
    return mean_abs.mean(0) if _checked(order) == 1 else mean_square.mean(0).sqrt()


def sensitivity_score(model: KAN, x: Tensor, *, signed: bool = False) -> Tensor:
    """KAN-SI at the samples x [N, I]: [I].

    signed: the form of the paper's code, in which the outputs' slopes may cancel; the same for one output.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = model(x)
        if signed:
            (slope,) = torch.autograd.grad(outputs.abs().sum(), x)
            return slope.abs().mean(0)
        total = x.new_zeros(x.size(1))
        for output in outputs.sum(0):  # rows do not meet: the gradient of their sum is each one's
            (slope,) = torch.autograd.grad(output, x, retain_graph=True)
            total += slope.abs().mean(0)
    return total


@torch.no_grad()
def knockout_score(model: KAN, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """KAN-KO at the samples x [N, I]: the rise of the loss without each feature, [I], negative if it falls.

    The first layer is a sum over features, so a network without feature i starts from hidden - phi_i: only
    the later layers run again, for many features at a time.

    Args:
        loss: outputs [F, N, C] of F networks -> their losses [F].
    """
    first, later = model[0], model[1:]
    hidden = first(x)
    whole = loss(later(hidden).unsqueeze(0))
    changed = [loss(later(hidden - contributions)) for contributions in _contributions(first, x)]
    return torch.cat(changed) - whole


def _contributions(layer: KANLinear, x: Tensor) -> Iterator[Tensor]:
    """What each feature adds to the layer's outputs: pieces [F, N, O] of [I, N, O]."""
    count = max(1, _CHUNK_VALUES // max(1, x.size(0) * layer.out_features))
    for features in torch.arange(layer.in_features).split(count):
        yield torch.stack([_contribution(layer, x, i) for i in features.tolist()])


def _contribution(layer: KANLinear, x: Tensor, i: int) -> Tensor:
    only = slice(i, i + 1)
    scaler = layer.spline_scaler
    return KF.kan_linear(
        x[:, only],
        layer.spline_weight[:, only],
        grid=layer.grid[only],
        degree=layer.degree,
        scale=None if scaler is None else scaler[:, only],
        base_weight=layer.base_weight[:, only],
        base=layer.base,
        extrapolation=layer.extrapolation,
    )


def normalized(score: Tensor) -> Tensor:
    """Clipped at 0 and divided by the sum; all 0 where nothing is above 0 (a knock-out may only help)."""
    score = score.clamp_min(0)
    total = score.sum()
    return score / torch.where(total > 0, total, 1)


def _checked(order: int) -> int:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    return order
