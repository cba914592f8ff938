"""What differs between the DETRs of transformers: where queries go in, and how heads read what comes out.

DAB-DETR         single level; references are 4-d boxes in logits; one head for all layers
Deformable-DETR  several levels; references are centres (boxes with two_stage); a head a layer
RT-DETR          several levels; DINO's ingredients: query selection, contrastive denoising queries, and
                 references as boxes; the decoder applies its heads itself
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdfast.recipes.clock_distill.queries import ExternalQueries, inverse_sigmoid

Inputs = dict[str, Any]
Heads = tuple[Tensor, Tensor]  # logits [L, B, E, C], boxes [L, B, E, 4]


@dataclass(frozen=True)
class Family:
    """A DETR's own names. inputs: what to append to the decoder's arguments; outputs: what to cut off."""

    inputs: Callable[[ExternalQueries, Inputs], dict[str, Tensor]]
    outputs: tuple[str, ...]
    heads: Callable[[nn.Module, Inputs, ExternalQueries], Heads]
    attention: Callable[
        [nn.Module], nn.Module
    ]  # a decoder layer's self-attention, which takes attention_mask
    mask: str | None  # the decoder's argument that marks the memory's real tokens
    grid: Callable[[nn.Module], nn.Module] | None = None  # whose output has the only level's height and width

    def shapes(self, found: Inputs) -> list[tuple[int, int]]:
        """(h, w) of the levels."""
        return [found["grid"]] if self.grid is not None else [tuple(s) for s in found["spatial_shapes"]]

    def layers(self, detr: nn.Module) -> int:
        """Number of decoder layers."""
        return len(detr.model.decoder.layers)


def _dab_inputs(queries: ExternalQueries, _: Inputs) -> dict[str, Tensor]:
    return {
        "inputs_embeds": queries.content,
        "query_position_embeddings": inverse_sigmoid(queries.reference),
    }


def _dab_heads(detr: nn.Module, found: Inputs, _: ExternalQueries) -> Heads:
    hidden, reference = found["intermediate_hidden_states"], found["reference_points"]  # [L, B, E, ...]
    boxes = detr.bbox_predictor(hidden) + inverse_sigmoid(reference)
    return detr.class_embed(hidden), boxes.sigmoid()


def _deformable_inputs(queries: ExternalQueries, inputs: Inputs) -> dict[str, Tensor]:
    reference = queries.reference[..., : inputs["reference_points"].size(-1)]
    return {
        "inputs_embeds": queries.content,
        "object_queries_position_embeddings": queries.position,
        "reference_points": reference,
    }


def _deformable_heads(detr: nn.Module, found: Inputs, queries: ExternalQueries) -> Heads:
    hidden, after = found["intermediate_hidden_states"], found["intermediate_reference_points"]
    begin = queries.reference if detr.config.two_stage else queries.reference[..., :2]
    logits, boxes = [], []
    for layer in range(hidden.size(1)):
        reference = begin if layer == 0 else after[:, layer - 1]
        delta = detr.bbox_embed[layer](hidden[:, layer])
        known = inverse_sigmoid(reference)
        rest = known.new_zeros(*known.shape[:-1], 4 - known.size(-1))
        boxes.append((delta + torch.cat([known, rest], -1)).sigmoid())
        logits.append(detr.class_embed[layer](hidden[:, layer]))
    return torch.stack(logits), torch.stack(boxes)


def _rt_inputs(queries: ExternalQueries, _: Inputs) -> dict[str, Tensor]:
    return {"inputs_embeds": queries.content, "reference_points": inverse_sigmoid(queries.reference)}


def _rt_heads(_: nn.Module, found: Inputs, __: ExternalQueries) -> Heads:
    return (
        found["intermediate_logits"].transpose(0, 1),
        found["intermediate_reference_points"].transpose(0, 1),
    )


_HIDDEN, _REFERENCES = "intermediate_hidden_states", "intermediate_reference_points"
FAMILIES = {
    "dab-detr": Family(
        _dab_inputs,
        (_HIDDEN, "reference_points"),
        _dab_heads,
        lambda layer: layer.self_attn.self_attn,
        "memory_key_padding_mask",
        lambda detr: detr.model.input_projection,
    ),
    "deformable_detr": Family(
        _deformable_inputs,
        (_HIDDEN, _REFERENCES),
        _deformable_heads,
        lambda layer: layer.self_attn,
        "encoder_attention_mask",
    ),
    "rt_detr": Family(
        _rt_inputs,
        (_HIDDEN, _REFERENCES, "intermediate_logits"),
        _rt_heads,
        lambda layer: layer.self_attn,
        None,
    ),
}


def family_of(detr: nn.Module) -> Family:
    """The family of a transformers model. Raises TypeError for one that is not among them."""
    kind = getattr(getattr(detr, "config", None), "model_type", type(detr).__name__)
    if kind not in FAMILIES:
        raise TypeError(f"a DETR of the kinds {', '.join(FAMILIES)} is needed, got {kind}")
    return FAMILIES[kind]
