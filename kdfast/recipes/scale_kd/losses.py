"""The losses of ScaleKD (arXiv 2411.06786): dual-view feature mimicking and soft cross-entropy.

    L_spat = a0 1/B sum_b sum_p |s(p)/|s(p)| - t(p)/|t(p)||^2         over positions p of one sample's tokens
    L_alt  = a1 1/B sum_b sum_p the same of s - mean_p s and t - mean_p t
    L_kd   = -alpha tau^2 mean_b sum_c softmax(z_T / tau)_c log softmax(z_S / tau)_c

The paper makes the alternative view with a DCT whose coefficient (0, 0) is set to zero; that is the map minus
its mean over positions, exactly, so no transform is computed here.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.modules.loss import _Loss

import kdfast.functional as KF

VIEWS = ("spatial", "alternative")
REDUCTIONS = ("sum_hw", "mean_hw")
View = Literal["spatial", "alternative"]


class ViewLoss(_Loss):
    """L_spat / a0 or L_alt / a1 of tokens; the student gets the gradient.

    student: [B, L, C]. teacher: the same, or [B, P + L, C] with `prefix` = P class tokens, which are left
    out, or a channels-last map [B, H, W, C].

    view: "spatial" or "alternative".
    eps: smallest norm that is divided by; a position at or below it gets no gradient. The paper has 1e-12.
    reduction: "sum_hw" sums over positions (the paper), "mean_hw" averages, so that the weight does not
        depend on the grid.

    The alternative view of a single position is zero everywhere: its loss is 0.
    """

    def __init__(self, view: View, *, eps: float = 1e-6, reduction: str = "sum_hw", prefix: int = 0) -> None:
        super().__init__()
        if view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}, got {view!r}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.view, self.eps, self.prefix = view, eps, prefix
        self.over_positions = reduction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        teacher = teacher.flatten(1, 2) if teacher.dim() == 4 else teacher[:, self.prefix :]
        center = self.view == "alternative"
        if center and student.size(1) == 1:
            return 0.0 * student.float().sum()
        how = "batchmean" if self.over_positions == "sum_hw" else "mean"
        return KF.normalized_mse(student, teacher, center=center, eps=self.eps, reduction=how)

    def extra_repr(self) -> str:
        return f"{self.view}, eps={self.eps}, reduction={self.over_positions}"


class SoftCrossEntropy(_Loss):
    """L_kd / alpha of logits [B, C]: tau^2 x cross-entropy with the teacher's probabilities."""

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        probabilities = (teacher.detach().float() / self.temperature).softmax(-1)
        return KF.soft_cross_entropy(student, probabilities, temperature=self.temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}"
