"""The losses on features as modules: a class for each function of kdfast.functional, with its option
names.
"""

from __future__ import annotations

from torch import Tensor, nn

import kdfast.functional as KF
from kdfast.nn.losses import _FunctionLoss
from kdfast.ops import _check, _check_features
from kdfast.ops.random_mask import OVER, check_ratio


class NDLoss(_FunctionLoss):
    """kdfast.functional.nd_loss: NDLoss(class_means)(student, teacher, target, mask=None).

    The means [K, D] may be given here (a buffer that moves with the module and is not saved) or, as for the
    function, in every call: NDLoss()(student, teacher, class_means, target).
    """

    function = staticmethod(KF.nd_loss)
    class_means: Tensor | None

    def __init__(self, class_means: Tensor | None = None, **options) -> None:
        super().__init__(**options)
        self.register_buffer("class_means", class_means, persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, *rest: Tensor, **per_call) -> Tensor:
        means = () if self.class_means is None or len(rest) > 1 else (self.class_means,)
        return super().forward(student, teacher, *means, *rest, **per_call)


class MaskedMSELoss(_FunctionLoss):
    """kdfast.functional.masked_mse: MaskedMSELoss()(student, teacher, spatial=None, channel=None) -> two
    losses.
    """

    function = staticmethod(KF.masked_mse)
    per_call = ("spatial", "channel")


class DiceDiversityLoss(_FunctionLoss):
    """kdfast.functional.dice_diversity: DiceDiversityLoss(form="ratio_of_sums")(masks)."""

    function = staticmethod(KF.dice_diversity)


class NormalizedMSELoss(_FunctionLoss):
    """kdfast.functional.normalized_mse: NormalizedMSELoss(dim=1, center=True)(student, teacher)."""

    function = staticmethod(KF.normalized_mse)


class BoxWeightedMSELoss(_FunctionLoss):
    """kdfast.functional.box_weighted_mse: BoxWeightedMSELoss()(student, teacher, boxes, shapes,
    mask=None).
    """

    function = staticmethod(KF.box_weighted_mse)


class BoxLoss(_FunctionLoss):
    """kdfast.functional.box_loss: BoxLoss(reduction="mean")(student_boxes, teacher_boxes, weight=None)."""

    function = staticmethod(KF.box_loss)
    per_call = ("weight",)


class AttentionMapKLLoss(_FunctionLoss):
    """kdfast.functional.attention_map_kl: AttentionMapKLLoss()(student_query, student_key, teacher_query,
    teacher_key).
    """

    function = staticmethod(KF.attention_map_kl)
    per_call = ("mask", "key_mask")


class AttentionTransferLoss(_FunctionLoss):
    """kdfast.functional.attention_transfer: AttentionTransferLoss(power=2.0)(student, teacher)."""

    function = staticmethod(KF.attention_transfer)


class ChannelWiseKLLoss(_FunctionLoss):
    """kdfast.functional.channel_wise_kl (CWD): ChannelWiseKLLoss(temperature=4.0)(student, teacher)."""

    function = staticmethod(KF.channel_wise_kl)


class HintMSELoss(_FunctionLoss):
    """kdfast.functional.hint_mse (FitNets): HintMSELoss()(student, teacher)."""

    function = staticmethod(KF.hint_mse)


class CosineDistanceLoss(_FunctionLoss):
    """kdfast.functional.cosine_distance: CosineDistanceLoss(dim=-1)(student, teacher)."""

    function = staticmethod(KF.cosine_distance)


class SimilarityPreservingLoss(_FunctionLoss):
    """kdfast.functional.similarity_preserving: SimilarityPreservingLoss()(student, teacher)."""

    function = staticmethod(KF.similarity_preserving)


class RKDLoss(nn.modules.loss._Loss):
    """Relational distillation: `distance` * rkd_distance + `angle` * rkd_angle (the paper's 25 and 50).

    Raises TypeError or ValueError for factors that are not finite numbers of 0 or above, or a chunk below 1.
    """

    def __init__(self, distance: float = 25.0, angle: float = 50.0, *, chunk_rows: int = 16) -> None:
        super().__init__()
        self.distance = _check_features.not_negative("distance", distance)
        self.angle = _check_features.not_negative("angle", angle)
        self.chunk_rows = _check.whole_number("chunk_rows", chunk_rows, 1)

    def extra_repr(self) -> str:
        return f"distance={self.distance}, angle={self.angle}, chunk_rows={self.chunk_rows}"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        angle = KF.rkd_angle(student, teacher, chunk_rows=self.chunk_rows)
        return self.distance * KF.rkd_distance(student, teacher) + self.angle * angle


class HCLLoss(_FunctionLoss):
    """kdfast.functional.hcl_loss (ReviewKD): HCLLoss()(student, teacher), one level."""

    function = staticmethod(KF.hcl_loss)


class FGDLoss(_FunctionLoss):
    """kdfast.functional.fgd_loss: FGDLoss()(student, teacher, boxes)."""

    function = staticmethod(KF.fgd_loss)


class MGDLoss(nn.modules.loss._Loss):
    """Masked generative distillation: the student's masked features must regenerate the teacher's.

    align (1 x 1, where channels differ) -> random mask -> conv 3 x 3, ReLU, conv 3 x 3 -> alpha * squared
    error / B (arXiv 2205.01529, eqs. 1-6; alpha and ratio are the paper's for two-stage detectors).

    Args:
        student_channels, teacher_channels: of the maps [B, C, H, W].
        alpha: the loss's factor.
        ratio, over: share that is masked, of "positions" or of "channels" (see
            kdfast.functional.random_mask).

    Raises TypeError or ValueError for bad options.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, alpha: float = 2e-5, ratio: float = 0.65,
        over: str = "positions",
    ) -> None:  # fmt: skip
        super().__init__()
        _check.whole_number("student_channels", student_channels, 1)
        _check.whole_number("teacher_channels", teacher_channels, 1)
        self.alpha = _check_features.not_negative("alpha", alpha)
        self.ratio = check_ratio(ratio)
        self.over = _check_features.option("over", over, OVER)
        same = student_channels == teacher_channels
        self.align = nn.Identity() if same else nn.Conv2d(student_channels, teacher_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, ratio={self.ratio}, over={self.over!r}"

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        masked = KF.random_mask(self.align(student), self.ratio, over=self.over)
        per_sample = teacher[0].numel() if teacher.size(0) else 0
        return self.alpha * per_sample * KF.hint_mse(self.generation(masked), teacher)
