"""DETRs of transformers built from a configuration, without a model hub, over any torchvision backbone.

The paper's DINO has no implementation in transformers; "rt_detr" is the nearest kept one, with DINO's query
selection and contrastive denoising. transformers freezes the batch norms of DAB- and Deformable-DETR's
backbones, so these two need pretrained backbone weights.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from transformers import (
    AutoBackbone,
    AutoConfig,
    DabDetrConfig,
    DabDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    PreTrainedConfig,
    PreTrainedModel,
    RTDetrConfig,
    RTDetrForObjectDetection,
)
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from kdfast.recipes.common.dense.backbones import trunk

Architecture = Literal["dab_detr", "deformable_detr", "rt_detr"]
ARCHITECTURES = ("dab_detr", "deformable_detr", "rt_detr")
STAGES = ["stride4", "stride8", "stride16", "stride32"]


class TorchvisionBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """Which network, its weights, and which of its stages are given out; see backbones.trunk."""

    model_type = "kdfast_torchvision"

    def __init__(
        self,
        name: str = "resnet50",
        weights: str | None = None,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name, self.weights, self.stage_names = name, weights, STAGES
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)


class TorchvisionBackbone(BackboneMixin, PreTrainedModel):
    """images [B, 3, H, W] -> feature maps of the stages."""

    config_class = TorchvisionBackboneConfig
    has_attentions = False

    def __init__(self, config: TorchvisionBackboneConfig) -> None:
        super().__init__(config)
        made = trunk(config.name, weights=config.weights)
        self.num_features = list(made.channels)
        wanted = {made.stages[STAGES.index(name)]: name for name in self.out_features}
        self.body = IntermediateLayerGetter(made.body, wanted)

    def _init_weights(self, module: nn.Module) -> None:
        """They are initialised, or loaded, already."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BackboneOutput:
        maps = self.body(pixel_values)
        return BackboneOutput(feature_maps=tuple(maps[name] for name in self.out_features))


AutoConfig.register(TorchvisionBackboneConfig.model_type, TorchvisionBackboneConfig, exist_ok=True)
AutoBackbone.register(TorchvisionBackboneConfig, TorchvisionBackbone, exist_ok=True)


def build_detr(
    architecture: Architecture,
    num_classes: int,
    *,
    backbone: str = "resnet50",
    weights: str | None = None,
    dim: int = 256,
    encoder_layers: int | None = None,
    decoder_layers: int = 6,
    queries: int = 300,
    denoising: int = 100,
    refine: bool = True,
) -> nn.Module:
    """A randomly initialised DETR with its authors' losses on all decoder layers.

    Args:
        backbone, weights: see backbones.trunk.
        dim: width D; feed-forward layers are 4 D wide (8 D in DAB-DETR), 8 heads.
        encoder_layers: 6, in RT-DETR 1, by default.
        queries: own object queries.
        denoising: denoising queries of RT-DETR, about.
        refine: Deformable-DETR refines boxes layer by layer.

    Raises:
        ValueError: an unknown architecture.
        UserError: an unknown backbone, or weights that do not fit it.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    common = {"num_labels": num_classes, "num_queries": queries, "auxiliary_loss": True}
    common |= {"decoder_layers": decoder_layers, "encoder_layers": encoder_layers or 6}
    stages = [3] if architecture == "dab_detr" else [1, 2, 3]
    body = TorchvisionBackboneConfig(backbone, weights, out_indices=stages)
    wide = (8 if architecture == "dab_detr" else 4) * dim
    common |= {"backbone_config": body, "encoder_ffn_dim": wide, "decoder_ffn_dim": wide}
    if architecture == "dab_detr":
        return DabDetrForObjectDetection(DabDetrConfig(hidden_size=dim, **common))
    if architecture == "deformable_detr":
        config = DeformableDetrConfig(d_model=dim, with_box_refine=refine, **common)
        return DeformableDetrForObjectDetection(config)
    common |= {"encoder_layers": encoder_layers or 1, "num_denoising": denoising}
    channels = {"encoder_in_channels": list(trunk(backbone).channels[1:]), "decoder_in_channels": [dim] * 3}
    config = RTDetrConfig(
        d_model=dim, encoder_hidden_dim=dim, freeze_backbone_batch_norms=False, **channels, **common
    )
    return _initialised(RTDetrForObjectDetection(config))


def _initialised(detr: nn.Module) -> nn.Module:
    """RT-DETR with torch's initial convolutions and batch norms in its neck, as its authors train it.

    transformers draws the norms' scales around 0, for weights that are loaded anyway: a new network's memory
    would be 1e-4 small and hardly learn.
    """
    for name, module in detr.named_modules():
        if ".backbone." not in name and isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.reset_parameters()
    return detr


def label_embedding_of(detr: nn.Module) -> Tensor | None:
    """What RT-DETR's denoising queries embed classes with [C + 1, D]; None for the others."""
    embedding = getattr(detr.model, "denoising_class_embed", None)
    return None if embedding is None else embedding.weight.detach()


def parts(detr: nn.Module) -> list[str]:
    """The names of all modules with weights but the backbone, for `inherit`."""
    inner = [f"model.{name}" for name, module in detr.model.named_children() if name != "backbone"]
    names = inner + [name for name, _ in detr.named_children() if name != "model"]
    return [name for name in names if detr.get_submodule(name).state_dict()]
