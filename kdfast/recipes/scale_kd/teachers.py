"""Vision transformers of timm as ScaleKD's teachers: where their tokens are, and last parts that run alone.

The student's projected features go through the teacher's own last part ("teacher parameter perception"):

    teacher       stage-3 features run through              stage-4 features run through
    Swin, v2      patch merging, last stage, norm           nothing
    ViT, DeiT     the three blocks before the last          the last block, norm
    BEiT          the last two blocks, norm                 nothing

Patch tokens alone run through a ViT's blocks. BEiT's position biases have a place for the class token: there
stands the mean of the patch tokens, and is dropped again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class TeacherParts:
    """What ScaleKD needs to know of a teacher.

    tokens: path of the module that returns the target: [B, H, W, C], or [B, P + L, C] with `prefix` = P class
        tokens.
    dims, grids: channels and query positions that stage 3 and stage 4 of the student are projected to.
    tails: the last part for each of the two stages, tokens -> tokens of the target's shape; None for nothing.
    """

    tokens: str
    dims: tuple[int, int]
    grids: tuple[Grid, Grid]
    tails: tuple[nn.Module | None, nn.Module | None]
    prefix: int = 0


def parts_of(model: nn.Module) -> TeacherParts:
    """The parts of a Swin, Swin v2, ViT, DeiT or BEiT of timm.

    Raises ValueError for other architectures (give ScaleKD the TeacherParts yourself) and too few blocks.
    """
    kind = type(model).__name__ if type(model).__module__.startswith("timm.") else "other"
    if kind in ("SwinTransformer", "SwinTransformerV2"):
        return _swin(model)
    if kind in ("VisionTransformer", "VisionTransformerDistilled", "Beit"):
        return _plain(model, beit=kind == "Beit")
    raise ValueError(
        f"the teacher must be a Swin, Swin v2, ViT, DeiT or BEiT of timm, got {type(model).__name__}; for "
        "others pass teacher_parts"
    )


def _swin(model: nn.Module) -> TeacherParts:
    before, last = model.layers[-2], model.layers[-1]
    grids = tuple(tuple(stage.blocks[0].input_resolution) for stage in (before, last))
    dims = tuple(stage.blocks[0].norm1.normalized_shape[0] for stage in (before, last))
    return TeacherParts("norm", dims, grids, (_SwinTail(last, model.norm, grids[0]), None))


def _plain(model: nn.Module, *, beit: bool) -> TeacherParts:
    blocks, n, needed = model.blocks, len(model.blocks), 3 if beit else 5
    if n < needed:
        raise ValueError(f"a {type(model).__name__} teacher needs at least {needed} blocks, got {n}")
    if beit:
        tails = (_BeitTail(blocks[n - 2 :], model.norm, model.rel_pos_bias), None)
    else:
        tails = (nn.Sequential(*blocks[n - 4 : n - 1]), nn.Sequential(*blocks[n - 1 :], model.norm))
    grid = tuple(model.patch_embed.grid_size)
    return TeacherParts("norm", (model.embed_dim,) * 2, (grid, grid), tails, model.num_prefix_tokens)


class _SwinTail(nn.Module):
    """Patch merging, last stage and norm: tokens [B, h w, C3] -> [B, L4, C4]."""

    def __init__(self, stage: nn.Module, norm: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.stage, self.norm, self.grid = stage, norm, grid

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.stage(tokens.unflatten(1, self.grid))).flatten(1, 2)


class _BeitTail(nn.Module):
    """Blocks and norm on tokens [B, L, C] behind their mean."""

    def __init__(self, blocks: Iterable[nn.Module], norm: nn.Module, shared: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.norm, self.shared = nn.ModuleList(blocks), norm, shared

    def forward(self, tokens: Tensor) -> Tensor:
        bias = None if self.shared is None else self.shared()
        x = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        for block in self.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        return self.norm(x)[:, 1:]
