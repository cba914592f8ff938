"""What the Triton kernels of KAN layers share on the host: arguments, packed weights, the choice of a plan.

    dense   a tile of samples by columns (feature, base) is made on the chip and multiplied by the packed
            weights with tl.dot: 2 (G + K) operations for each sample, input and output, on matrix units
    local   each sample gathers the K + 1 rows of weights that its point touches: 2 (K + 1) operations, not on
            matrix units, and its reads do not coalesce

The base branch is a product of matrices in itself, and is left to torch's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .bspline import knots_of
from .common import compute_type

# The most bases of a feature for which the dense plan is taken. A matrix unit does 8 to 16 times the
# operations of the others, and the local plan needs (G + K) / (K + 1) times fewer, so it wins with many bases
# only. Set by this count: there is no record of a GPU yet.
DENSE_UP_TO = {torch.float32: 32, torch.float64: 16}
COLUMNS = 32  # (feature, base) pairs of a dense tile


class Layer(NamedTuple):
    """A layer's arguments in the compute type; packed [I * bases, O] holds scale * coef."""

    x: Tensor  # [N, I], in its own type, any strides
    knots: Tensor  # [I, knots]
    packed: Tensor
    base_weight: Tensor | None  # [O, I]
    degree: int
    extrapolation: int
    out: int

    @property
    def bases(self) -> int:
        return self.knots.size(1) - self.degree - 1

    @property
    def compute(self) -> torch.dtype:
        return self.knots.dtype


def layer_of(
    x: Tensor,
    coef: Tensor,
    grid: Tensor,
    degree: int,
    scale: Tensor | None,
    base_weight: Tensor | None,
    extrapolation: int,
) -> Layer:
    """The op's arguments made ready."""
    compute = compute_type(x)
    weight = coef.to(compute) if scale is None else coef.to(compute) * scale.to(compute).unsqueeze(-1)
    packed = weight.permute(1, 2, 0).reshape(-1, coef.size(0)).contiguous()
    base = None if base_weight is None else base_weight.to(compute)
    return Layer(x, knots_of(grid, compute), packed, base, degree, extrapolation, coef.size(0))


def plan(layer: Layer) -> str:
    """ "dense" or "local"."""
    return "dense" if layer.bases <= DENSE_UP_TO[layer.compute] else "local"


def precision() -> str:
    """How tl.dot multiplies float32: as torch does."""
    return "tf32" if torch.get_float32_matmul_precision() != "highest" else "ieee"


def silu(layer: Layer) -> Tensor:
    """silu(x) [N, I] in the compute type."""
    return F.silu(layer.x.to(layer.compute).contiguous())


def silu_slope(layer: Layer) -> Tensor:
    """The derivative of silu at x [N, I] in the compute type."""
    x = layer.x.to(layer.compute).contiguous()
    sigma = x.sigmoid()
    return sigma * (1 + x * (1 - sigma))


def unpacked(edge: Tensor, coef: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """From the gradient of the packed weights [I * bases, O] those of coef [O, I, bases] and scale [O, I]."""
    edge = edge.view(coef.size(1), coef.size(2), coef.size(0)).permute(2, 0, 1)
    if scale is None:
        return edge.to(coef.dtype).contiguous(), None
    compute = edge.dtype
    of_coef = (edge * scale.to(compute).unsqueeze(-1)).to(coef.dtype).contiguous()
    return of_coef, (edge * coef.to(compute)).sum(-1).to(scale.dtype)


LAYER = (
    "Tensor x, Tensor coef, Tensor grid, int degree, Tensor? scale, Tensor? base_weight, int extrapolation"
)
"""The arguments that every op of a layer has, in their schema."""


def fake_grads(
    x: Tensor, coef: Tensor, scale: Tensor | None, base_weight: Tensor | None, wanted: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients without values; [0] where not wanted (bit 0: x's, bit 1: the weights')."""
    given = (wanted & 1, wanted & 2, wanted & 2 and scale is not None, wanted & 2 and base_weight is not None)
    none = x.new_empty(0, dtype=compute_type(x))
    tensors = (x, coef, scale, base_weight)
    return tuple(t.new_empty(t.shape) if has else none.clone() for t, has in zip(tensors, given, strict=True))
