"""Where ScaleKD looks into a student: two maps, of strides 16 and 32 or of two depths of a flat network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import kdfast


class StudentMaps(nn.Module):
    """images -> (the student's output, [map 3 [B, c3, h3, w3], map 4]).

    paths: of the two modules; None finds them: the last two stages of a hierarchical network of timm; of a
        flat one (ViT, DeiT, BEiT, MLP-Mixer, gMLP, ResMLP) the block at two thirds and the last norm.
        Tokens become maps, class tokens are dropped.

    Raises ValueError where the paths are not found or do not give maps.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str] | None = None) -> None:
        super().__init__()
        self.paths = find_paths(model) if paths is None else tuple(paths)
        if len(self.paths) != 2:
            raise ValueError(f"a student needs two taps, for stage 3 and stage 4, got {list(self.paths)}")
        self.tap = kdfast.FeatureTap(model, dict(zip(("stage3", "stage4"), self.paths, strict=True)))
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        self.channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        self.grid = None if grid is None else tuple(grid)

    @property
    def model(self) -> nn.Module:
        return self.tap.model

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        output, features = self.tap(images)
        return output, [self.to_map(features[name], path) for name, path in self._named()]

    def _named(self) -> list[tuple[str, str]]:
        return list(self.tap.paths.items())

    def to_map(self, feature: Tensor, path: str) -> Tensor:
        """Tokens [B, P + L, C] or a map of either layout -> [B, C, h, w]."""
        if feature.dim() == 3:
            tokens = feature[:, self.prefix :]
            grid = self.grid or (math.isqrt(tokens.size(1)),) * 2
            if grid[0] * grid[1] != tokens.size(1):
                raise ValueError(f"student module {path!r} gave {tokens.size(1)} tokens, not a map of {grid}")
            return tokens.mT.unflatten(2, grid)
        if feature.dim() != 4:
            raise ValueError(f"student module {path!r} must give a map or tokens, got {list(feature.shape)}")
        return feature.movedim(3, 1) if self.channels_last else feature

    @torch.no_grad()
    def shapes(self, example: Tensor) -> list[torch.Size]:
        """[c, h, w] of the two maps of an example batch; the model is left as it was."""
        training = self.model.training
        try:
            self.model.eval()
            return [x.shape[1:] for x in self(example)[1]]
        finally:
            self.model.train(training)


def find_paths(model: nn.Module) -> tuple[str, str]:
    """Module paths of a timm model's two taps. Raises ValueError for a model that does not tell."""
    blocks = getattr(model, "blocks", None)
    info = list(getattr(model, "feature_info", None) or [])
    strides = [item["reduction"] for item in info]
    if blocks is not None and len(set(strides)) <= 1 and len(blocks) >= 2:  # flat: all of one stride
        last = len(blocks) - 1
        normed = isinstance(getattr(model, "norm", None), nn.Module)
        middle = max(0, round(2 * len(blocks) / 3) - 1)
        return f"blocks.{min(middle, last - 1)}", "norm" if normed else f"blocks.{last}"
    if len(info) >= 2:
        return info[-2]["module"], info[-1]["module"]
    raise ValueError(
        f"the taps of a {type(model).__name__} student are not known; name two modules whose maps are to be "
        "compared"
    )
