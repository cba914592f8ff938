"""External queries through a transformers DETR in the same decoder pass as its own: `DetrWithQueries`.

Hooks put the queries behind the model's own, give the decoder's self-attention a mask under which the two
groups do not see each other, and take the results away again behind the decoder, so that the rest of the
model (heads, matching, its loss) works on its own queries as if nothing had happened. A second decoder pass
would project the memory a second time in every layer.

What is called memory is what the decoder attends to: the encoder's output, in RT-DETR behind its projections.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdfast.recipes.clock_distill.families import Family, family_of
from kdfast.recipes.clock_distill.queries import ExternalQueries


class DetrOutput(NamedTuple):
    """L decoder layers, B images, Q own and E external queries, C classes, N tokens of all levels.

    logits, boxes: [B, Q, C] and [B, Q, 4] of the last layer, boxes in cxcywh of the image; loss: the model's
    own, 0-d, if labels were given, and its parts; memory: [B, N, D]; memory_mask: bool [B, N] or None, False
    in padding; shapes: (h, w) of the levels; extents: [B, 4], the image's (w, h, w, h) as shares of the
    padded input; external_logits, external_boxes: [L, B, E, C] and [L, B, E, 4]; real: bool [B, E].
    """

    logits: Tensor
    boxes: Tensor
    loss: Tensor | None
    parts: dict[str, Tensor]
    memory: Tensor
    memory_mask: Tensor | None
    shapes: list[tuple[int, int]]
    extents: Tensor
    external_logits: Tensor
    external_boxes: Tensor
    real: Tensor


class DetrWithQueries(nn.Module):
    """A transformers DETR whose forward takes external queries too and returns a `DetrOutput`.

    Args:
        detr: a DabDetr-, DeformableDetr- or RTDetrForObjectDetection; `.detr` is what one exports.
    """

    def __init__(self, detr: nn.Module) -> None:
        super().__init__()
        self.detr = detr
        self._family: Family = family_of(detr)

    @property
    def stretches(self) -> bool:
        """Whether the model knows no padding, so that images have to be given one size."""
        return self._family.mask is None

    def forward(
        self,
        images: Tensor,
        pixel_mask: Tensor,
        queries: ExternalQueries | None = None,
        labels: list[dict[str, Tensor]] | None = None,
    ) -> DetrOutput:
        """Args:
        images: [B, 3, H, W], normalised.
        pixel_mask: [B, H, W], 1 in the image, 0 in padding at its right and bottom.
        labels: of each image "class_labels" [n] from 0 and "boxes" [n, 4], cxcywh of the image; only used in
            training.
        """
        family, found = self._family, {}
        with self._hooked(queries, found):
            out = self.detr(images, pixel_mask=pixel_mask, labels=labels if self.training else None)
        shapes = family.shapes(found)
        nothing = out.logits.new_zeros(family.layers(self.detr), len(images), 0, out.logits.size(-1))
        logits, boxes = (nothing, nothing.new_zeros(*nothing.shape[:3], 4))
        if queries is not None:
            logits, boxes = family.heads(self.detr, found["external"], queries)
        return DetrOutput(
            out.logits,
            out.pred_boxes,
            self._with_every_parameter(out.loss),
            dict(out.loss_dict or {}),
            found["memory"],
            found["memory_mask"],
            shapes,
            _extents(pixel_mask),
            logits,
            boxes,
            queries.real if queries is not None else pixel_mask.new_zeros(len(images), 0, dtype=torch.bool),
        )

    def _with_every_parameter(self, loss: Tensor | None) -> Tensor | None:
        """A batch without objects has no denoising queries; DDP wants a gradient for their embedding too."""
        embedding = getattr(self.detr.model, "denoising_class_embed", None)
        return loss if loss is None or embedding is None else loss + 0 * embedding.weight.sum()

    @contextmanager
    def _hooked(self, queries: ExternalQueries | None, found: dict[str, Any]) -> Iterator[None]:
        decoder, family = self.detr.model.decoder, self._family
        with ExitStack() as hooks:

            def keep(handle: Any) -> None:
                hooks.callback(handle.remove)

            before = partial(_before_decoder, family, queries, found)
            keep(decoder.register_forward_pre_hook(before, with_kwargs=True))
            if family.grid is not None:
                keep(family.grid(self.detr).register_forward_hook(partial(_keep_grid, found)))
            if queries is not None:
                keep(decoder.register_forward_hook(partial(_after_decoder, family, queries, found)))
                mask = partial(_mask_attention, queries)
                for layer in decoder.layers:
                    attention = family.attention(layer)
                    keep(attention.register_forward_pre_hook(mask, with_kwargs=True))
            yield


def _before_decoder(
    family: Family,
    queries: ExternalQueries | None,
    found: dict[str, Any],
    decoder: nn.Module,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    found["memory"] = inputs["encoder_hidden_states"]
    found["memory_mask"] = None if family.mask is None else inputs[family.mask].bool()
    found["spatial_shapes"] = inputs.get("spatial_shapes_list")
    if queries is None:
        return args, inputs
    more = family.inputs(queries, inputs)
    return args, inputs | {name: torch.cat([inputs[name], extra], 1) for name, extra in more.items()}


def _after_decoder(
    family: Family,
    queries: ExternalQueries,
    found: dict[str, Any],
    decoder: nn.Module,
    args: tuple[Any, ...],
    out: Any,
) -> Any:
    """Cut the external queries off every output; the query dim is the last but one."""
    count, found["external"] = queries.real.size(1), {}
    for name in ("last_hidden_state", *family.outputs):
        own, external = out[name].split([out[name].size(-2) - count, count], -2)
        out[name], found["external"][name] = own, external
    return out


def _mask_attention(
    queries: ExternalQueries, attention: nn.Module, args: tuple[Any, ...], inputs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add to the model's own mask [Q, Q] (of denoising groups, or none) one that keeps the groups apart."""
    hidden, own = inputs["hidden_states"], inputs.get("attention_mask")
    total, count = hidden.size(1), queries.real.size(1)
    first = total - count
    mask = hidden.new_full((hidden.size(0), 1, total, total), -torch.inf)
    mask[..., :first, :first] = 0 if own is None else own
    mask[..., first:, first:].masked_fill_(queries.allowed[:, None], 0)
    return args, inputs | {"attention_mask": mask}


def _keep_grid(found: dict[str, Any], module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
    found["grid"] = tuple(out.shape[-2:])


def _extents(pixel_mask: Tensor) -> Tensor:
    height, width = pixel_mask.shape[1:]
    w, h = pixel_mask[:, 0].sum(1) / width, pixel_mask[:, :, 0].sum(1) / height
    return torch.stack([w, h, w, h], 1).float()
