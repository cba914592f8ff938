"""The student's way into the teacher's features: maps -> projectors -> the teacher's last part -> tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from kdfast.distill.frozen import Frozen
from kdfast.nn import CrossAttentionProjector
from kdfast.recipes.scale_kd.students import StudentMaps
from kdfast.recipes.scale_kd.teachers import TeacherParts

STAGES = (3, 4)
HEADS = {(768, 1536): (16, 24), (512, 1024): (8, 16), (384, 768): (3, 6)}  # Swin-L, B and S


class Held(Frozen):
    """Frozen; with `train_mode` in the outer module's mode instead of always in eval mode."""

    def __init__(self, module: nn.Module, *, train_mode: bool = False, **options: Any) -> None:
        super().__init__(module, **options)
        self.train_mode = train_mode

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.train_mode:
            return super().forward(*args, **kwargs)
        self.module.train(self.training)
        if self._dtype is not None:
            args, kwargs = tree_map_only(Tensor, self._cast, (args, kwargs))
        with torch.set_grad_enabled(self.grad and torch.is_grad_enabled()):
            return self.module(*args, **kwargs)


class Projectors(nn.Module):
    """A cross-attention projector for each stage and view, and the features' way through them.

    shapes: [c, h, w] of the student's two maps. Others as in ScaleKD; num_heads None: the paper's for
    Swin-L, B and S, for others 8 or the largest number below that divides the width.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]],
        parts: TeacherParts,
        *,
        stages: Sequence[int],
        views: Sequence[str],
        num_heads: Sequence[int] | None = None,
        softmax_scale: float = 5.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        heads = num_heads or HEADS.get(parts.dims) or [_heads(dim) for dim in parts.dims]
        self.stages, self.views = tuple(stages), tuple(views)
        self.caps = nn.ModuleDict()
        for stage in stages:
            i = STAGES.index(stage)
            channels, *size = shapes[i]
            for view in views:
                self.caps[f"{stage}_{view}"] = CrossAttentionProjector(
                    channels, parts.dims[i], size, parts.grids[i],
                    num_heads=heads[i], softmax_scale=softmax_scale, norm=norm,
                    learned_queries=stage == stages[0],
                )  # fmt: skip

    def forward(
        self, maps: Sequence[Tensor], tails: Sequence[Callable[[Tensor], Tensor] | None]
    ) -> dict[str, Tensor]:
        """The student's two maps -> tokens [B, L, C] to compare with the teacher's, by "STAGE_VIEW".

        Stage 4's queries are what stage 3 gave, not detached.
        """
        found = {}
        for view in self.views:
            tokens = None
            for stage in self.stages:
                i, name = STAGES.index(stage), f"{stage}_{view}"
                tokens = self.caps[name](maps[i], tokens)
                found[name] = tokens = tokens if tails[i] is None else tails[i](tokens)
        return found


def _heads(dim: int) -> int:
    return next(heads for heads in range(8, 0, -1) if dim % heads == 0)


class Projected(nn.Module):
    """A student whose projected features a Distiller can tap, under `features.STAGE_VIEW`; returns logits.

    Within `projecting()` only: elsewhere it is the bare student. The tails are held frozen and unregistered,
    and gradients pass through them.
    """

    def __init__(self, maps: StudentMaps, projectors: Projectors, tails: Sequence[Held | None]) -> None:
        super().__init__()
        self.maps, self.projectors = maps, projectors
        self.features = nn.ModuleDict({name: nn.Identity() for name in projectors.caps})
        self._tails = list(tails)
        self._projects = False

    @property
    def model(self) -> nn.Module:
        """The bare student."""
        return self.maps.model

    @contextmanager
    def projecting(self) -> Iterator[None]:
        """Forward passes in here compute the features too."""
        self._projects = True
        try:
            yield
        finally:
            self._projects = False

    def forward(self, images: Tensor) -> Tensor:
        if not self._projects:
            return self.model(images)
        output, maps = self.maps(images)
        for name, tokens in self.projectors(maps, self._tails).items():
            self.features[name](tokens)
        return output

    def timed_parts(self) -> dict[str, nn.Module]:
        """What a step clock shows beside the student."""
        return {"projectors": self.projectors}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Projected:
        super()._apply(fn, recurse)
        for tail in filter(None, self._tails):
            tail._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> Projected:
        for tail in filter(None, self._tails):
            tail.train(mode)
        return super().train(mode)
