"""Prediction with both heads, p = alpha softmax(a) + (1 - alpha) softmax(b / beta), and the search of its two
numbers after training. Search on validation logits: on test logits it would report a choice, not a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from kdfast.recipes.dho.zero_shot import wide

ALPHAS = tuple(float(alpha) for alpha in np.arange(0, 1.05, 0.05))  # 21, the last one exactly 1.0
BETAS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0)


def dho_predict(ce_logits: Tensor, kd_logits: Tensor, alpha: float = 0.5, beta: float = 0.5) -> Tensor:
    """Probabilities [N, C], float32 (float64 if an input is), from logits [N, C] of the two heads.

    alpha: share of the supervised head (1: that head alone; 0 with beta = 1: the distillation head alone).
    beta: temperature of the distillation head. The defaults are those of the 1 % and 10 % settings; the
    argmax of a tie is the lowest class.
    """
    if not 0 <= alpha <= 1 or not beta > 0:
        raise ValueError(f"alpha must be in [0, 1] and beta above 0, got {alpha} and {beta}")
    a, b = wide(ce_logits), wide(kd_logits)
    return alpha * a.softmax(-1) + (1 - alpha) * (b / beta).softmax(-1)


def accuracy_grid(
    ce_logits: Tensor, kd_logits: Tensor, target: Tensor, alphas: Sequence[float], betas: Sequence[float]
) -> Iterator[tuple[float, float, float]]:
    """(alpha, beta, accuracy) of the whole grid: betas outside, alphas inside."""
    a, b = wide(ce_logits), wide(kd_logits)
    supervised = a.softmax(-1)
    for beta in betas:
        distilled = (b / beta).softmax(-1)
        for alpha in alphas:
            guess = (alpha * supervised + (1 - alpha) * distilled).argmax(-1)
            yield alpha, beta, float((guess == target).double().mean())


def search_alpha_beta(
    ce_logits: Tensor,
    kd_logits: Tensor,
    target: Tensor,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
) -> tuple[float, float, float]:
    """-> (alpha, beta, accuracy), the best on these logits [N, C] and labels [N]; the first of equals.

    Raises ValueError for no samples or an empty grid.
    """
    if not target.numel() or not len(alphas) or not len(betas):
        raise ValueError("search_alpha_beta needs at least one sample, one alpha and one beta")
    return max(accuracy_grid(ce_logits, kd_logits, target, alphas, betas), key=lambda found: found[2])
