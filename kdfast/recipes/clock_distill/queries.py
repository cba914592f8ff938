"""Target-aware queries: the annotated objects as constant decoder queries, the same for teacher and student.

For an object of class c and box b = (cx, cy, w, h): content = [Embed(c), 1], position = MLP(b), reference =
b. Nothing of it is learned or noised. An image's objects are repeated `copies` times and padded to the
largest image of the batch; a query attends to the real queries of its own copy and to nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

COPIES = 3
_HIDDEN = 64  # width of the position's MLP
_EPS = 1e-5  # of the inverse sigmoid: boxes may touch 0 and 1


class ExternalQueries(NamedTuple):
    """Queries from outside the model, E = copies x (objects of the fullest image).

    content, position: [B, E, D]; reference: [B, E, 4], cxcywh in [0, 1]; real: bool [B, E], False in padding;
    allowed: bool [B, E, E], which query (dim 1) may attend to which (dim 2); every query may to itself.
    """

    content: Tensor
    position: Tensor
    reference: Tensor
    real: Tensor
    allowed: Tensor


class TargetQueries(nn.Module):
    """Makes `ExternalQueries` of a batch's annotations.

    Args:
        num_classes: C.
        dim: D, the width of the decoders.
        copies: how often an image's objects are repeated.
        label_embedding: [C or more, D], the content of each class; by default random numbers that are drawn
            once and kept in the state dict. (A teacher trained with denoising queries has an embedding that
            it understands.)
        scale: standard deviation of the random numbers.
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        copies: int = COPIES,
        label_embedding: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if copies < 1:
            raise ValueError(f"copies must be 1 or more, got {copies}")
        if label_embedding is None:
            indicator = torch.ones(num_classes, 1)
            label_embedding = torch.cat([scale * torch.randn(num_classes, dim - 1), indicator], 1)
        if label_embedding.size(0) < num_classes or label_embedding.size(1) != dim:
            shape = tuple(label_embedding.shape)
            raise ValueError(f"label_embedding must be [{num_classes} or more, {dim}], got {shape}")
        self.num_classes, self.copies = num_classes, copies
        self.register_buffer("labels", label_embedding[:num_classes].detach().clone())
        first, second = nn.Linear(4, _HIDDEN), nn.Linear(_HIDDEN, dim)
        self.position = nn.Sequential(first, nn.ReLU(), second).requires_grad_(False)

    @torch.no_grad()
    def forward(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> ExternalQueries:
        """Args: boxes, B tensors [n, 4] in cxcywh of the image; labels, B tensors [n] of 0 ... C-1.

        Raises:
            ValueError: a label is out of range, or an image has not as many labels as boxes.
        """
        self._check(boxes, labels)
        counts = [len(b) for b in boxes]
        most, device = max(counts, default=0), self.labels.device
        reference = torch.tensor([0.5, 0.5, 0.5, 0.5], device=device).repeat(len(counts), most, 1)
        content = torch.zeros(len(counts), most, self.labels.size(1), device=device)
        for i, count in enumerate(counts):
            reference[i, :count] = boxes[i].to(device, torch.float32)
            content[i, :count] = self.labels[labels[i].to(device)]
        real = torch.arange(most, device=device) < torch.tensor(counts, device=device)[:, None]
        position = self.position(inverse_sigmoid(reference)) * real[..., None]
        content, position, reference, real = (
            torch.cat([x] * self.copies, 1) for x in (content, position, reference, real)
        )
        copy = torch.arange(self.copies, device=device).repeat_interleave(most)
        own = torch.eye(copy.numel(), dtype=torch.bool, device=device)
        allowed = ((copy[:, None] == copy) & real[:, None, :]) | own
        return ExternalQueries(content, position, reference, real, allowed)

    def _check(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        for i, (b, label) in enumerate(zip(boxes, labels, strict=True)):
            if b.dim() != 2 or b.size(-1) != 4 or len(b) != len(label):
                got = f"{tuple(b.shape)} and {tuple(label.shape)}"
                raise ValueError(f"boxes[{i}] must be [n, 4] and labels[{i}] [n], got {got}")
            if len(label) and not 0 <= int(label.min()) <= int(label.max()) < self.num_classes:
                raise ValueError(f"labels[{i}] must hold 0 ... {self.num_classes - 1}, got {label.tolist()}")


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)), with both kept above 1e-5."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=_EPS) / (1 - x).clamp(min=_EPS))
