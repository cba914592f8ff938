"""The loss of DHO (arXiv 2505.07675): cross-entropy on the labelled rows of one head, KL on all of the other.

    L_CE  = mean over labelled rows of -log softmax(a)[y]
    L_KDl = T^2 mean over labelled rows of KL(softmax(t / T) || softmax(b / T));  L_KDu: unlabelled rows
    L     = lam L_CE + (1 - lam) (L_KDl + L_KDu)

a, b: logits of the supervised and of the distillation head, t: the teacher's. The two means are added, not
joined: with as many labelled as unlabelled rows, L_KD is twice the mean over all rows, and otherwise a
labelled row weighs Nu / Nl times an unlabelled one. `reduction="mean"` joins them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

import kdfast.functional as KF

UNLABELED = -100  # the target of a row without a label, torch's ignore_index


def dho_loss(
    ce_logits: Tensor,
    kd_logits: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    labeled_mask: Tensor | None = None,
    n_labeled: int | None = None,
    temperature: float = 2.0,
    lam: float = 0.5,
    weights: tuple[float, float] | None = None,
    reduction: str = "code",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms {"ce", "kd_labeled", "kd_unlabeled"} (with "mean": {"ce", "kd"}), detached.

    Args:
        ce_logits, kd_logits: a and b [N, C], of the student's heads; both get gradients.
        teacher: t [N, C], a constant.
        target: class numbers [N]; what unlabelled rows hold is ignored. With `n_labeled`, [n_labeled] will
            do.
        labeled_mask: bool [N], which rows have a label. n_labeled: the first rows have. Neither: those whose
            target is not -100.
        temperature: T of the KL terms.
        lam: share of the cross-entropy, in [0, 1].
        weights: (of the cross-entropy, of the KL terms) in place of (lam, 1 - lam): (1, 1) in the paper's
            1 % and 10 % settings.
        reduction: "code", the sum of two means above, or "mean", one mean over all rows.

    A term without rows is 0. Arithmetic, half precision and -inf logits as in kdfast.functional.kl_div.
    Raises TypeError and ValueError for bad input, before anything runs.
    """
    ce_weight, kd_weight = _weights(lam, weights)
    if reduction not in ("code", "mean"):
        raise ValueError(f'reduction must be "code" or "mean", got {reduction!r}')
    for name, logits in (("kd_logits", kd_logits), ("teacher", teacher)):
        if logits.shape != ce_logits.shape:
            raise ValueError(
                f"{name} must have the shape of ce_logits, {list(ce_logits.shape)}, got {list(logits.shape)}"
            )
    target, labeled = _labels(target, ce_logits.size(0), labeled_mask, n_labeled)
    ce = KF.focal_loss(ce_logits, target, gamma=0.0, ignore_index=UNLABELED)
    if reduction == "mean":
        kd = KF.kl_div(kd_logits, teacher, temperature=temperature, reduction="mean")
        return ce_weight * ce + kd_weight * kd, {"ce": ce.detach(), "kd": kd.detach()}
    kd_labeled, kd_unlabeled = (
        KF.kl_div(kd_logits, teacher, temperature=temperature, mask=rows, reduction="mean")
        for rows in (labeled, ~labeled)
    )
    loss = ce_weight * ce + kd_weight * (kd_labeled + kd_unlabeled)
    terms = {"ce": ce, "kd_labeled": kd_labeled, "kd_unlabeled": kd_unlabeled}
    return loss, {name: value.detach() for name, value in terms.items()}


def _weights(lam: float, weights: tuple[float, float] | None) -> tuple[float, float]:
    if not 0 <= lam <= 1:
        raise ValueError(f"lam must be in [0, 1], got {lam}")
    pair = (lam, 1 - lam) if weights is None else weights
    if len(pair) != 2 or not all(math.isfinite(w) and w >= 0 for w in pair):
        raise ValueError(f"weights must be two numbers of at least 0, got {weights}")
    return pair


def _labels(target: Tensor, rows: int, mask: Tensor | None, n_labeled: int | None) -> tuple[Tensor, Tensor]:
    """-> targets [N] with UNLABELED where there is none, and which rows have one."""
    if mask is not None and n_labeled is not None:
        raise ValueError("labeled_mask and n_labeled say the same; give one of them")
    if n_labeled is not None:
        if not 0 <= n_labeled <= rows or target.size(0) not in (n_labeled, rows):
            raise ValueError(
                f"n_labeled must be at most the {rows} rows, with that many targets, got {n_labeled} "
                f"and {target.size(0)} targets"
            )
        hidden = target.new_full((rows - n_labeled,), UNLABELED)
        target = torch.cat([target[:n_labeled], hidden])
    elif mask is not None:
        if mask.dtype != torch.bool or mask.shape != (rows,):
            raise ValueError(f"labeled_mask must be bool [{rows}], got {mask.dtype} {list(mask.shape)}")
        target = torch.where(mask, target, UNLABELED)
    return target, target != UNLABELED


class SupervisedLoss(_Loss):
    """weight x L_CE of a student's output (a, b): the task loss of a Distiller."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        return self.weight * KF.focal_loss(output[0], target, gamma=0.0, ignore_index=UNLABELED)


class HalfKL(_Loss):
    """L_KDl (`labeled=True`), L_KDu (False) or the mean over all rows (None), as a term with target=True."""

    def __init__(self, labeled: bool | None, temperature: float = 2.0) -> None:
        super().__init__()
        self.labeled, self.temperature = labeled, temperature

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        rows = None if self.labeled is None else (target != UNLABELED) == self.labeled
        return KF.kl_div(student, teacher, temperature=self.temperature, mask=rows, reduction="mean")

    def extra_repr(self) -> str:
        return f"labeled={self.labeled}, temperature={self.temperature}"
