"""ScaleKD (arXiv 2411.06786): a Distiller that sees its student through projectors and the teacher's tail.

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
from torch.nn.modules.loss import _Loss

import kdfast
from kdfast.distill.distiller import DistillerOutput
from kdfast.recipes.scale_kd.losses import VIEWS, SoftCrossEntropy, ViewLoss
from kdfast.recipes.scale_kd.projected import STAGES, Held, Projected, Projectors
from kdfast.recipes.scale_kd.students import StudentMaps
from kdfast.recipes.scale_kd.teachers import TeacherParts, parts_of

SHORT = {"spatial": "spat", "alternative": "alt"}


class Weighted(_Loss):
    """weight x loss(output, target)."""

    def __init__(self, loss: Callable[..., Tensor], weight: float) -> None:
        super().__init__()
        self.loss, self.weight = loss, weight

    def forward(self, output: Any, target: Any) -> Tensor:
        return self.weight * self.loss(output, target)


class ScaleKD(kdfast.Distiller):
    """Train a student on a ViT's last tokens and logits: `out = d(images, target=y); out.loss.backward()`.

    out.terms: "spat_3", "alt_3", "spat_4", "alt_4", "kd", before their weights. `d.student` is a Projected;
    `d.export_student()` hands back the bare student, and the projectors are left behind.

    Args:
        student: any classifier; its maps are found by StudentMaps, or named by `student_taps`.
        teacher: a Swin, ViT, DeiT or BEiT of timm, or any model with `teacher_parts`. Frozen in place.
        example: a batch of images, to see the shapes of the student's maps.
        stages, views: which of (3, 4) and ("spatial", "alternative") are compared.
        spatial_weight, alternative_weight: a0 and a1, one number or one for each stage (Swin-S in the paper:
            a1 = (0.06, 0) and kd=False).
        alpha: weight of the soft cross-entropy; 1 - alpha that of the task. kd=False leaves the soft
            cross-entropy out, and the task at 1 - alpha.
        temperature: tau of the soft cross-entropy.
        softmax_scale: gamma of the projectors' attention. num_heads: of stage 3's and 4's projectors.
        projector_norm: "batch", or "layer" as for ConvNeXt students; "auto" looks at the student.
        eps, reduction: as in ViewLoss.
        task_loss: task_loss(student's output, target), cross-entropy by default.
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
        teacher_parts: TeacherParts | None = None,
        teacher_train_mode: bool = False,
        teacher_dtype: torch.dtype | None = None,
        teacher_inputs: Callable[..., Any] | None = None,
    ) -> None:
        _check(stages, views, alpha)
        weights = _weights(spatial_weight, alternative_weight)
        parts = parts_of(teacher) if teacher_parts is None else teacher_parts
        maps = StudentMaps(student, student_taps)
        projectors = Projectors(
            maps.shapes(example), parts, stages=sorted(stages), views=views,
            num_heads=num_heads, softmax_scale=softmax_scale, norm=_norm(projector_norm, student),
        )  # fmt: skip
        held = {"train_mode": teacher_train_mode, "dtype": teacher_dtype}
        tails = [None if tail is None else Held(tail, **held) for tail in parts.tails]
        terms = [
            kdfast.Term(
                ViewLoss(view, eps=eps, reduction=reduction, prefix=parts.prefix),
                f"features.{stage}_{view}", parts.tokens,
                name=f"{SHORT[view]}_{stage}", weight=weights[stage, view],
            )
            for stage in projectors.stages
            for view in views
        ]  # fmt: skip
        if kd:
            terms.append(kdfast.Term(SoftCrossEntropy(temperature), name="kd", weight=alpha))
        task = Weighted(nn.CrossEntropyLoss() if task_loss is None else task_loss, 1 - alpha)
        wrapped = Projected(maps, projectors, tails)
        super().__init__(wrapped, teacher, terms, task, teacher_dtype, teacher_inputs=teacher_inputs)
        self._frozen = Held(teacher, grad=False, **held)

    def forward(self, *inputs: Any, **kwargs: Any) -> DistillerOutput:
        """As Distiller.forward."""
        with self.student.projecting():
            return super().forward(*inputs, **kwargs)

    def export_student(self) -> nn.Module:
        """The student, the object given at construction, without hooks."""
        super().export_student()
        self.student.maps.tap.remove()
        return self.student.model

    def attach(self) -> None:
        """Go on training after `export_student()`."""
        super().attach()
        self.student.maps.tap.attach()


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
