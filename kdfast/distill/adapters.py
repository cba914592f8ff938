"""adapter="auto": the projection that takes a student's feature to a teacher's shape.

    channels     1x1 convolution (maps, dim 1) or linear layer (tokens and vectors, last dim)
    map size     area averaging down, (bi)linear interpolation up
    tokens       [B, C, H, W] <-> [B, H*W, C], and grids of other sizes, where the count is a square (ViT)

A 1x1 projection commutes with both resizings, so their order does not matter.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_CONV = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SHAPE_KEEPING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Sigmoid,
    nn.Tanh,
)


class AutoAdapter(nn.Module):
    """Project `student_channels` to `teacher_channels`; give the result the teacher's map size or token grid.

    dims: number of dims of the teacher's feature where its channels are dim 1 (3, 4 or 5: a 1x1 convolution);
        0 where they are the last dim (a linear layer, any number of dims).
    The projection is left out (Identity) where the channels agree already.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        dims: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.dims = dims
        if student_channels == teacher_channels:
            self.projection: nn.Module = nn.Identity()
        elif dims:
            self.projection = _CONV[dims](student_channels, teacher_channels, 1, device=device, dtype=dtype)
        else:
            self.projection = nn.Linear(student_channels, teacher_channels, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """x: the student's feature; shape: the teacher's feature's shape."""
        if self.dims:
            if x.dim() == 3 and self.dims == 4:
                x = _tokens_to_map(x)
            return _resize(self.projection(x), shape[2:])
        if len(shape) == 3 and x.dim() == 3 and x.shape[1] != shape[1]:
            x = _tokens_to_map(x)
        if len(shape) == 3 and x.dim() == 4:
            x = _map_to_tokens(x, shape[1])
        return self.projection(x)


def _resize(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if x.shape[2:] == size:
        return x
    if all(have >= need for have, need in zip(x.shape[2:], size, strict=True)):
        return F.interpolate(x, size=tuple(size), mode="area")
    return F.interpolate(x, size=tuple(size), mode=_INTERPOLATION[len(size)], align_corners=False)


def _tokens_to_map(x: torch.Tensor) -> torch.Tensor:
    """[B, g*g, C] -> [B, C, g, g]; other counts are left alone, for the shape check to refuse."""
    grid = math.isqrt(x.shape[1])
    return x.transpose(1, 2).unflatten(2, (grid, grid)) if grid * grid == x.shape[1] else x


def _map_to_tokens(x: torch.Tensor, tokens: int) -> torch.Tensor:
    """[B, C, H, W] -> [B, tokens, C], resized to a square grid where the counts differ."""
    grid = math.isqrt(tokens)
    if x.shape[2] * x.shape[3] != tokens and grid * grid == tokens:
        x = _resize(x, torch.Size((grid, grid)))
    return x.flatten(2).transpose(1, 2)


def adapter_from_shapes(
    student: torch.Size, teacher: torch.Size, *, sequence: bool = False, **factory: Any
) -> AutoAdapter:
    """The adapter between two example features [B, ...]; ValueError if none of its forms fits.

    sequence: three dims are [B, C, L] (Conv1d) and not tokens [B, L, C].
    """
    if len(student) < 2 or len(teacher) < 2:
        raise ValueError("a feature needs a batch and a channel dim")
    first, last = _channel_dim(student, sequence), _channel_dim(teacher, sequence)
    if len(student) == len(teacher) and first != last:
        raise ValueError("one map is channels-first and the other channels-last")
    if len(student) != len(teacher) and {len(student), len(teacher)} != {3, 4}:
        raise ValueError(f"a feature with {len(student)} dims cannot be projected to one with {len(teacher)}")
    if len(student) != len(teacher) and 3 in (first, last):
        raise ValueError("one is a channels-last map and the other tokens")
    dims = len(teacher) if last == 1 and len(teacher) > 2 else 0
    return AutoAdapter(student[first], teacher[last], dims, **factory)


def _channel_dim(shape: torch.Size, sequence: bool) -> int:
    """Maps: dim 1, but [B, H, H, C] of Swin and its like is channels-last. Vectors, tokens: the last dim."""
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        return 3
    return 1 if len(shape) > 3 or (len(shape) == 3 and sequence) else len(shape) - 1


def declared_channels(module: nn.Module) -> tuple[int, int] | None:
    """(channels, dims) that a layer declares for its output, dims as in AutoAdapter; else None."""
    if isinstance(module, nn.Sequential):
        rest = [layer for layer in module if not isinstance(layer, _SHAPE_KEEPING)]
        return declared_channels(rest[-1]) if rest else None
    for dims, kinds in (
        (3, (nn.Conv1d, nn.ConvTranspose1d)),
        (4, (nn.Conv2d, nn.ConvTranspose2d)),
        (5, (nn.Conv3d, nn.ConvTranspose3d)),
    ):
        if isinstance(module, kinds):
            return module.out_channels, dims
    if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return module.num_features, 4 if isinstance(module, nn.BatchNorm2d) else 5
    if isinstance(module, nn.Linear):
        return module.out_features, 0
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1:
        return module.normalized_shape[-1], 0
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, 0
    return None
