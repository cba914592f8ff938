"""ScaleKD (arXiv 2411.06786): a student beside a frozen vision transformer.

    g_v = CAP_3v(f3) -> the teacher's last part -> h_v;  o_v = CAP_4v(f4, queries h_v)      v: the two views
    loss = (1 - alpha) task + alpha L_kd + sum_v w_3v L_v(h_v, t4) + w_4v L_v(o_v, t4)

f3, f4: the student's maps, t4: the teacher's last tokens. The last part is frozen, yet gradients pass through
it, from both of its uses: h_v is not detached where it asks stage 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import kdfast
from kdfast.distill.distiller import DistillerOutput
from kdfast.distill.frozen import Frozen
from kdfast.recipes.scale_kd.losses import VIEWS, SoftCrossEntropy, ViewLoss
from kdfast.recipes.scale_kd.students import StudentMaps
from kdfast.recipes.scale_kd.teachers import StagedTeacher, TeacherOutput, staged

STAGES = (3, 4)
SHORT = {"spatial": "spat", "alternative": "alt"}
HEADS = {(768, 1536): (16, 24), (512, 1024): (8, 16), (384, 768): (3, 6)}  # Swin-L, B and S; 8 for others


class ScaleKD(nn.Module):
    """Train a student on a ViT's last features and logits: `out = d(images, target=y); out.loss.backward()`.

    Args:
        student: any classifier; its maps are found by StudentMaps, or named by `student_taps`.
        teacher: a Swin, ViT, DeiT or BEiT of timm, or a StagedTeacher. Frozen in place, held unregistered.
        example: a batch of the student's images, to see the maps' shapes.
        stages, views: which of (3, 4) and ("spatial", "alternative") are compared.
        spatial_weight, alternative_weight: a0 and a1, one number or one for each stage.
        alpha: weight of the soft cross-entropy; 1 - alpha that of the task. kd=False leaves the soft
            cross-entropy out, and the task at 1 - alpha.
        temperature: tau of the soft cross-entropy.
        softmax_scale: gamma of the projectors' attention. num_heads: of stage 3's and 4's projectors.
        projector_norm: "batch", or "layer" as for ConvNeXt students; "auto" looks at the student.
        eps, reduction: as in ViewLoss.
        task_loss: task_loss(student's output, target).
        teacher_train_mode: run the teacher in training mode while training, with its stochastic depth, as
            the published code did by accident; the numbers in the paper were presumably obtained so.
        teacher_dtype: bfloat16 or float16 for the teacher, its last part included.
        teacher_inputs: the student's images -> the teacher's.

    Raises ValueError for options out of range and for features that cannot be fitted.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        example: Tensor,
        *,
        stages: Sequence[int] = STAGES,
        views: Sequence[str] = VIEWS,
        spatial_weight: float | Sequence[float] = 0.08,
        alternative_weight: float | Sequence[float] = 0.06,
        alpha: float = 0.5,
        kd: bool = True,
        temperature: float = 1.0,
        softmax_scale: float = 5.0,
        num_heads: Sequence[int] | None = None,
        projector_norm: str = "auto",
        eps: float = 1e-6,
        reduction: str = "sum_hw",
        task_loss: Callable[..., Tensor] | None = None,
        student_taps: Sequence[str] | None = None,
        teacher_train_mode: bool = False,
        teacher_dtype: torch.dtype | None = None,
        teacher_inputs: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        _check(stages, views, alpha)
        adapter = staged(teacher)
        self.stages, self.views, self.alpha = tuple(sorted(stages)), tuple(views), alpha
        self.weights = _weights(spatial_weight, alternative_weight)
        self.maps = StudentMaps(student, student_taps)
        self.task_loss = nn.CrossEntropyLoss() if task_loss is None else task_loss
        self.kd = SoftCrossEntropy(temperature) if kd else None
        self.view_losses = nn.ModuleDict({v: ViewLoss(v, eps=eps, reduction=reduction) for v in self.views})
        self.teacher_inputs = teacher_inputs
        self._frozen = Held(adapter, train_mode=teacher_train_mode, dtype=teacher_dtype, grad=False)
        self.tails = [
            tail and Held(tail, train_mode=teacher_train_mode, dtype=teacher_dtype) for tail in adapter.tails
        ]
        self.projectors = Projectors(
            self.maps.shapes(example), adapter, self.stages, self.views,
            num_heads=num_heads, softmax_scale=softmax_scale, norm=_norm(projector_norm, student),
        )  # fmt: skip

    @property
    def student(self) -> nn.Module:
        return self.maps.model

    @property
    def teacher(self) -> StagedTeacher:
        return self._frozen.module

    def forward(
        self, images: Tensor, target: Tensor | None = None, *, replay: TeacherOutput | None = None
    ) -> DistillerOutput:
        """As a Distiller's. replay: a stored output of the teacher, which then does not run.

        terms: "spat_3", "alt_3", "spat_4", "alt_4" and "kd", before their weights.
        """
        if target is None:
            raise ValueError("target is None, but task_loss needs it: call d(images, target=...)")
        wanted = self.run_teacher(images) if replay is None else replay
        output, maps = self.maps(images)
        found = self.projectors(maps, wanted.prefixes, self.tails)
        loss = (1 - self.alpha) * self.task_loss(output, target)
        terms = {}
        for (stage, view), tokens in found.items():
            value = self.view_losses[view](tokens, wanted.tokens)
            terms[f"{SHORT[view]}_{stage}"] = value.detach()
            loss = loss + self.weights[stage, view] * value
        if self.kd is not None:
            value = self.kd(output, wanted.logits)
            terms["kd"] = value.detach()
            loss = loss + self.alpha * value
        return DistillerOutput(loss, terms, output, wanted.logits)

    @torch.no_grad()
    def run_teacher(self, images: Tensor) -> TeacherOutput:
        """The teacher's side of one batch of the student's images."""
        return self._frozen(images if self.teacher_inputs is None else self.teacher_inputs(images))

    def set_progress(self, x: float | Tensor) -> None:
        """Nothing here depends on how far training is."""

    def export_student(self) -> nn.Module:
        """The student, the object given at construction, without hooks; the projectors are left behind."""
        self.maps.tap.remove()
        return self.student

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ScaleKD:
        super()._apply(fn, recurse)
        for tail in filter(None, self.tails):  # in a list, so that they are registered nowhere
            tail._apply(fn, recurse)
        return self

    def train(self, mode: bool = True) -> ScaleKD:
        for tail in filter(None, getattr(self, "tails", ())):
            tail.train(mode)
        return super().train(mode)


class Held(Frozen):
    """Frozen, and with `train_mode` in the outer module's mode instead of eval."""

    def __init__(self, module: nn.Module, *, train_mode: bool = False, **options: Any) -> None:
        super().__init__(module, **options)
        self.train_mode = train_mode

    def forward(self, *args: Any) -> Any:
        if not self.train_mode:
            return super().forward(*args)
        self.module.train(self.training)
        if self._dtype is not None:
            args = tree_map_only(Tensor, self._cast, args)
        with torch.set_grad_enabled(self.grad and torch.is_grad_enabled()):
            return self.module(*args)


class Projectors(nn.Module):
    """A cross-attention projector for each stage and view, and the way of the features through them."""

    def __init__(
        self,
        shapes: Sequence[torch.Size],
        teacher: StagedTeacher,
        stages: Sequence[int],
        views: Sequence[str],
        *,
        num_heads: Sequence[int] | None,
        softmax_scale: float,
        norm: str,
    ) -> None:
        super().__init__()
        heads = num_heads or HEADS.get(teacher.dims) or [_heads(dim) for dim in teacher.dims]
        self.stages, self.views = stages, views
        self.caps = nn.ModuleDict()
        for stage in stages:
            i = STAGES.index(stage)
            channels, *size = shapes[i]
            for view in views:
                self.caps[f"{stage}_{view}"] = kdfast.nn.CrossAttentionProjector(
                    channels, teacher.dims[i], size, teacher.grids[i],
                    num_heads=heads[i], softmax_scale=softmax_scale, norm=norm,
                    learned_queries=stage == stages[0],
                )  # fmt: skip

    def forward(
        self,
        maps: Sequence[Tensor],
        prefixes: Sequence[Tensor | None],
        tails: Sequence[Callable[..., Tensor] | None],
    ) -> dict[tuple[int, str], Tensor]:
        """The student's two maps -> tokens of the teacher's last features, by (stage, view)."""
        found: dict[tuple[int, str], Tensor] = {}
        for view in self.views:
            queries = None
            for stage in self.stages:
                i = STAGES.index(stage)
                tokens = self.caps[f"{stage}_{view}"](maps[i], queries)
                if tails[i] is not None:
                    tokens = tails[i](tokens, prefixes[i])
                found[stage, view] = queries = tokens
        return found


def _heads(dim: int) -> int:
    """The paper's 8, or the largest number below that divides the width."""
    return next(heads for heads in range(8, 0, -1) if dim % heads == 0)


def _norm(norm: str, student: nn.Module) -> str:
    return ("layer" if "ConvNeXt" in type(student).__name__ else "batch") if norm == "auto" else norm


def _weights(*given: float | Sequence[float]) -> dict[tuple[int, str], float]:
    """(stage, view) -> weight."""
    found = {}
    for view, weight in zip(VIEWS, given, strict=True):
        pair = tuple(weight) if isinstance(weight, Sequence) else (weight, weight)
        if len(pair) != 2 or not all(w >= 0 for w in pair):
            raise ValueError(f"{view}_weight must be one or two numbers of at least 0, got {weight}")
        found |= {(stage, view): w for stage, w in zip(STAGES, pair, strict=True)}
    return found


def _check(stages: Sequence[int], views: Sequence[str], alpha: float) -> None:
    if not stages or not set(stages) <= set(STAGES):
        raise ValueError(f"stages must be some of 3 and 4, got {list(stages)}")
    if not views or not set(views) <= set(VIEWS):
        raise ValueError(f"views must be some of {', '.join(VIEWS)}, got {list(views)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
