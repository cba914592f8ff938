"""Few-shot teacher: Tip-Adapter-F (arXiv 2207.09519), a cache of labelled images on top of a zero-shot one.

    affinity = v A^T;  t = 100 v . W + alpha exp(-beta (1 - affinity)) V

v: unit image embeddings [N, d], W: class vectors [C, d], A: adapter [K, d], at first the labelled images'
embeddings, then trained, V: their one-hot labels [K, C].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdfast.recipes.dho.zero_shot import SCALE, wide, zero_shot_logits

SEARCH_STEPS = (200, 20)  # betas outside, alphas inside


def tip_adapter_logits(
    v: Tensor, A: Tensor, V: Tensor, W: Tensor, alpha: float, beta: float, *, scale: float = SCALE
) -> Tensor:
    """The equation above, [N, C]; v is normalised here, class vectors W [C, d] are taken as they are."""
    v = F.normalize(wide(v), dim=-1)
    return zero_shot_logits(v, W, scale=scale) + _cache_logits(v @ wide(A).T, V, alpha, beta)


def _cache_logits(affinity: Tensor, values: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * torch.exp(-beta * (1 - affinity)) @ wide(values)


class TipAdapter(nn.Module):
    """Images -> few-shot logits; see the file's first lines. Build it with `fit_tip_adapter`."""

    def __init__(
        self, encoder: nn.Module, A: Tensor, V: Tensor, W: Tensor, alpha: float, beta: float
    ) -> None:
        super().__init__()
        self.encoder, self.alpha, self.beta = encoder, alpha, beta
        for name, tensor in (("A", A), ("V", V), ("W", W)):
            self.register_buffer(name, tensor.detach().clone())

    def logits(self, v: Tensor) -> Tensor:
        """Of image embeddings."""
        return tip_adapter_logits(v.to(self.W.device), self.A, self.V, self.W, self.alpha, self.beta)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.encoder(images))

    def extra_repr(self) -> str:
        return f"keys={self.A.size(0)}, alpha={self.alpha:.3g}, beta={self.beta:.3g}"


def fit_tip_adapter(
    views: Tensor,
    target: Tensor,
    classes: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    epochs: int = 20,
    lr: float = 1e-3,
    batch_size: int = 256,
    start: tuple[float, float] = (1.17, 1.0),
    search_scale: tuple[float, float] = (7.0, 3.0),
) -> tuple[Tensor, Tensor, float, float, float]:
    """Train A by cross-entropy, then choose beta and alpha on validation embeddings.

    Args:
        views: embeddings [E, K, d] of E augmented views of each of the K labelled images; their mean is the
            key, each view is trained on in turn.
        target: classes [K]. classes: vectors W [C, d].
        validation: (embeddings [M, d], classes [M]).
        epochs, lr: of AdamW (eps 1e-4) on a cosine schedule.
        start: (alpha, beta) while training.
        search_scale: greatest beta and alpha of the search, 200 and 20 steps from 0.1.

    Returns:
        A [K, d], V [K, C], alpha, beta, accuracy on the validation embeddings.
    """
    W, views = classes.float(), F.normalize(views.detach().float(), dim=-1)
    V = F.one_hot(target, W.size(0)).float()
    A = nn.Parameter(F.normalize(views.mean(0), dim=-1))
    optimizer = torch.optim.AdamW([A], lr=lr, eps=1e-4)
    batches = -(-target.numel() // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for epoch in range(epochs):
        for rows in torch.randperm(target.numel(), device=target.device).split(batch_size):
            logits = tip_adapter_logits(views[epoch % len(views), rows], A, V, W, *start)
            optimizer.zero_grad()
            F.cross_entropy(logits, target[rows]).backward()
            optimizer.step()
            schedule.step()
    A = A.detach()
    beta, alpha, accuracy = _search(A, V, W, validation, search_scale)
    return A, V, alpha, beta, accuracy


@torch.no_grad()
def _search(
    A: Tensor, V: Tensor, W: Tensor, validation: tuple[Tensor, Tensor], search_scale: Sequence[float]
) -> tuple[float, float, float]:
    """-> beta, alpha, accuracy; the first of equals."""
    v, target = F.normalize(validation[0].float(), dim=-1), validation[1]
    text, affinity, best = zero_shot_logits(v, W), v @ A.T, (1.0, 1.0, -1.0)
    betas, alphas = (
        [0.1 + i * (top - 0.1) / steps for i in range(steps)]
        for top, steps in zip(search_scale, SEARCH_STEPS, strict=True)
    )
    for beta in betas:
        cache = _cache_logits(affinity, V, 1.0, beta)
        for alpha in alphas:
            accuracy = float(((text + alpha * cache).argmax(1) == target).double().mean())
            if accuracy > best[2]:
                best = (beta, alpha, accuracy)
    return best
