"""Classifiers made of text: one vector a class, the mean of its prompts' embeddings; logits = 100 cosines.

    e_cp = text(prompt p of class c) / |.|;  w_c = mean_p e_cp;  w_c /= |w_c|;  t = 100 (v / |v|) . w_c

v: the image's embedding in the space of the text (CLIP, arXiv 2103.00020, section 3.1.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PHOTO = ("a photo of a {}.",)
SCALE = 100.0  # fixed, not the checkpoint's logit_scale


def wide(x: Tensor) -> Tensor:
    """float32, or float64 as it is."""
    return x if x.dtype == torch.float64 else x.float()


def prompts(names: Sequence[str], templates: Sequence[str] = PHOTO, *, spaces: bool = True) -> list[str]:
    """One prompt a class and template, classes outside. spaces: "_" in names becomes " "."""
    if not names or not templates or any("{}" not in template for template in templates):
        raise ValueError("prompts need class names, and templates with {} where the name goes")
    named = [name.replace("_", " ") if spaces else name for name in names]
    return [template.format(name) for name in named for template in templates]


def class_vectors(
    embeddings: Tensor, how: Literal["renormalize", "mean_of_unit", "mean"] = "renormalize"
) -> Tensor:
    """Embeddings [C, P, d] of P prompts a class -> [C, d].

    how: "renormalize": unit vectors, averaged, to unit length again (CLIP). "mean_of_unit": left at the
    average's length (the DFN5B teachers of the official code). "mean": nothing is normalised (the student's
    heads, `normalize_text=False`).
    """
    if embeddings.dim() != 3:
        raise ValueError(f"embeddings must be [classes, prompts, d], got {list(embeddings.shape)}")
    if how == "mean":
        return embeddings.mean(1)
    mean = F.normalize(embeddings, dim=-1).mean(1)
    if how == "mean_of_unit":
        return mean
    if how != "renormalize":
        raise ValueError(f'how must be "renormalize", "mean_of_unit" or "mean", got {how!r}')
    return F.normalize(mean, dim=-1)


def class_embeddings(
    encode_text: Callable[[list[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[str] = PHOTO,
    *,
    how: Literal["renormalize", "mean_of_unit", "mean"] = "renormalize",
) -> Tensor:
    """`class_vectors` of the names [C, d]; encode_text: prompts -> [prompts, d]."""
    with torch.no_grad():
        flat = encode_text(prompts(names, templates, spaces=how != "mean_of_unit"))
    return class_vectors(flat.unflatten(0, (len(names), len(templates))), how)


def zero_shot_logits(image: Tensor, classes: Tensor, *, scale: float = SCALE) -> Tensor:
    """Image embeddings [N, d], normalised here, class vectors [C, d], taken as they are -> [N, C]."""
    return scale * F.normalize(wide(image), dim=-1) @ wide(classes).T


class ZeroShot(nn.Module):
    """Images -> zero-shot logits: an image encoder into the text's space, and class vectors [C, d]."""

    def __init__(self, encoder: nn.Module, classes: Tensor, *, scale: float = SCALE) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.register_buffer("classes", classes.detach().clone())

    def logits(self, v: Tensor) -> Tensor:
        """Of image embeddings."""
        return zero_shot_logits(v.to(self.classes.device), self.classes, scale=self.scale)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.encoder(images))


class ClipTextHead(nn.Linear):
    """A linear classifier [N, d] -> [N, C] that starts as a text classifier, with zero bias.

    normalize_text: unit class vectors; False, the official code's student heads, takes embeddings as they
    are.
    """

    def __init__(
        self,
        encode_text: Callable[[list[str]], Tensor],
        names: Sequence[str],
        templates: Sequence[str] = PHOTO,
        *,
        normalize_text: bool = False,
    ) -> None:
        vectors = class_embeddings(
            encode_text, names, templates, how="renormalize" if normalize_text else "mean"
        )
        super().__init__(vectors.size(1), vectors.size(0))
        with torch.no_grad():
            self.weight.copy_(vectors)
            self.bias.zero_()
