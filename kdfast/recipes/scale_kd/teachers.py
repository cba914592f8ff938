"""Vision transformers of timm as ScaleKD's teachers: target tokens, logits, and last parts that can be run alone.

The student's projected features go through the teacher's own last part ("teacher parameter perception"):

    teacher       stage-3 features run through              stage-4 features run through
    Swin, v2      patch merging, last stage, norm           nothing
    ViT, DeiT     the blocks before the last, three         the last block, norm
    BEiT          the last two blocks, norm                 nothing

A ViT's blocks also get the class token that the teacher itself had at that depth, without gradient, and its
place is dropped from the result; BEiT's position biases need it there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import kdfast

Grid = tuple[int, int]


class TeacherOutput(NamedTuple):
    """tokens: the target of both stages [B, L, C]. logits [B, classes]. prefixes: class tokens [B, P, C] at
    the entrance of each stage's last part, None where there are none.
    """

    tokens: Tensor
    logits: Tensor
    prefixes: tuple[Tensor | None, Tensor | None] = (None, None)


class StagedTeacher(nn.Module):
    """A model with a tap: images -> TeacherOutput. `tails`: the last parts of stage 3 and 4, None for nothing.

    dims: channels that stage 3 and stage 4 of the student are projected to. grids: their query positions.
    """

    def __init__(self, model: nn.Module, tokens: str, entrances: tuple[str | None, str | None]) -> None:
        super().__init__()
        names = {"tokens": tokens} | {f"stage{i}": path for i, path in zip((3, 4), entrances) if path}
        self.tap = kdfast.FeatureTap(model, names)
        self.dims: tuple[int, int]
        self.grids: tuple[Grid, Grid]
        self.tails: list[nn.Module | None] = [None, None]  # a list: they are parts of the model already

    @property
    def model(self) -> nn.Module:
        return self.tap.model

    def _prefixes(self, features: dict[str, Tensor], count: int) -> tuple[Tensor | None, Tensor | None]:
        found = (features.get("stage3"), features.get("stage4"))
        return tuple(None if x is None or not count else x[:, :count] for x in found)


class SwinTeacher(StagedTeacher):
    """timm's SwinTransformer and SwinTransformerV2."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, "norm", (None, None))
        before, last = model.layers[-2], model.layers[-1]
        self.dims = (_swin_width(before), _swin_width(last))
        self.grids = (_swin_grid(before), _swin_grid(last))
        self.tails = [_SwinTail(last, model.norm, self.grids[0]), None]

    def forward(self, images: Tensor) -> TeacherOutput:
        logits, features = self.tap(images)
        return TeacherOutput(features["tokens"].flatten(1, 2), logits)


class _SwinTail(nn.Module):
    """Patch merging, last stage and norm: tokens [B, h w, C3] -> [B, L4, C4]."""

    def __init__(self, stage: nn.Module, norm: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.stage, self.norm, self.grid = stage, norm, grid

    def forward(self, tokens: Tensor, prefix: Tensor | None = None) -> Tensor:
        return self.norm(self.stage(tokens.unflatten(1, self.grid))).flatten(1, 2)


def _swin_width(stage: nn.Module) -> int:
    return next(p for name, p in stage.blocks.named_parameters() if "norm1.weight" in name).numel()


def _swin_grid(stage: nn.Module) -> Grid:
    return tuple(stage.blocks[0].input_resolution)


class PlainTeacher(StagedTeacher):
    """timm's VisionTransformer (DeiT too) and Beit: `depths` (s3 start, s3 end, s4 start) of the last parts."""

    def __init__(self, model: nn.Module) -> None:
        blocks, beit = model.blocks, type(model).__name__ == "Beit"
        n = len(blocks)
        needed = 3 if beit else 5
        if n < needed:
            raise ValueError(f"a {type(model).__name__} teacher needs at least {needed} blocks, got {n}")
        starts = (n - 2, None) if beit else (n - 4, n - 1)
        entrances = tuple(None if start is None else f"blocks.{start - 1}" for start in starts)
        super().__init__(model, "norm", entrances)
        self.count = model.num_prefix_tokens
        self.dims = (model.embed_dim, model.embed_dim)
        self.grids = (tuple(model.patch_embed.grid_size),) * 2
        if beit:
            shared = model.rel_pos_bias
            self.tails = [_BlocksTail(blocks[n - 2 :], model.norm, biased=True, shared=shared), None]
        else:
            self.tails = [
                _BlocksTail(blocks[n - 4 : n - 1], nn.Identity()),
                _BlocksTail(blocks[n - 1 :], model.norm),
            ]

    def forward(self, images: Tensor) -> TeacherOutput:
        logits, features = self.tap(images)
        tokens = features["tokens"][:, self.count :]
        return TeacherOutput(tokens, logits, self._prefixes(features, self.count))


class _BlocksTail(nn.Module):
    """Blocks and norm on tokens [B, L, C], behind the teacher's class tokens if there are any."""

    def __init__(
        self, blocks: nn.Module, norm: nn.Module, *, biased: bool = False, shared: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.blocks, self.norm, self.shared, self.biased = nn.ModuleList(blocks), norm, shared, biased

    def forward(self, tokens: Tensor, prefix: Tensor | None = None) -> Tensor:
        count = 0 if prefix is None else prefix.size(1)
        x = tokens if prefix is None else torch.cat([prefix.to(tokens.dtype), tokens], 1)
        more = {"shared_rel_pos_bias": None if self.shared is None else self.shared()} if self.biased else {}
        for block in self.blocks:
            x = block(x, **more)
        return self.norm(x)[:, count:]


_KINDS = {
    "SwinTransformer": SwinTeacher,
    "SwinTransformerV2": SwinTeacher,
    "VisionTransformer": PlainTeacher,
    "VisionTransformerDistilled": PlainTeacher,
    "Beit": PlainTeacher,
}


def staged(model: nn.Module) -> StagedTeacher:
    """The adapter for a model of timm. Raises ValueError for other architectures."""
    if isinstance(model, StagedTeacher):
        return model
    kind = type(model).__name__
    if kind not in _KINDS or not type(model).__module__.startswith("timm."):
        raise ValueError(
            f"ScaleKD's teacher must be a Swin, Swin v2, ViT, DeiT or BEiT of timm, got {kind}; for others "
            "pass a StagedTeacher"
        )
    return _KINDS[kind](model)
