"""DETRs of transformers built from a configuration, without a model hub, over any torchvision backbone.

The paper's DINO has no implementation in transformers; "rt_detr" is the nearest kept one, with DINO's query
selection and contrastive denoising. transformers freezes the batch norms of DAB- and Deformable-DETR's
backbones, so these two need pretrained backbone weights.
"""

from __future__ import annotations

from typing import Any, Literal

import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
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

Architecture = Literal["dab_detr", "deformable_detr", "rt_detr"]
STAGES = ["stride4", "stride8", "stride16", "stride32"]
_RESNET = ("layer1", "layer2", "layer3", "layer4")
_MOBILE = ("features.3", "features.6", "features.13", "features.17")
_SMALL = (64, 128, 256, 512)
_LARGE = (256, 512, 1024, 2048)
# name -> (layers with strides 4, 8, 16 and 32, their channels)
BACKBONES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "mobilenet_v2": (_MOBILE, (24, 32, 96, 320)),
    "resnet18": (_RESNET, _SMALL),
    "resnet34": (_RESNET, _SMALL),
    "resnet50": (_RESNET, _LARGE),
    "resnet101": (_RESNET, _LARGE),
}


class TorchvisionBackboneConfig(BackboneConfigMixin, PreTrainedConfig):
    """Which torchvision network, and which of its stages are given out."""

    model_type = "kdfast_torchvision"

    def __init__(
        self,
        name: str = "resnet50",
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if name not in BACKBONES:
            raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}, got {name!r}")
        self.name, self.stage_names = name, STAGES
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)


class TorchvisionBackbone(BackboneMixin, PreTrainedModel):
    """images [B, 3, H, W] -> feature maps of the stages; `.body` has the torchvision network's own keys."""

    config_class = TorchvisionBackboneConfig
    has_attentions = False

    def __init__(self, config: TorchvisionBackboneConfig) -> None:
        super().__init__(config)
        layers, channels = BACKBONES[config.name]
        self.num_features = list(channels)
        wanted = {layers[STAGES.index(name)]: name for name in self.out_features}
        network = torchvision.models.get_model(config.name, weights=None)
        self.body = create_feature_extractor(network, wanted)

    def _init_weights(self, module: nn.Module) -> None:
        """torchvision has initialised them."""

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
    dim: int = 256,
    encoder_layers: int | None = None,
    decoder_layers: int = 6,
    queries: int = 300,
    denoising: int = 100,
    refine: bool = True,
) -> nn.Module:
    """A randomly initialised DETR with the paper's losses and auxiliary losses of all layers.

    Args:
        dim: width D; feed-forward layers are 4 D wide (8 D in DAB-DETR), 8 heads.
        encoder_layers: 6, in RT-DETR 1, by default.
        queries: own object queries.
        denoising: denoising queries of RT-DETR, about.
        refine: Deformable-DETR refines boxes layer by layer.
    """
    if architecture == "dab_detr":
        config = DabDetrConfig(
            backbone_config=TorchvisionBackboneConfig(backbone, out_indices=[3]),
            hidden_size=dim,
            encoder_layers=encoder_layers or 6,
            decoder_layers=decoder_layers,
            encoder_ffn_dim=8 * dim,
            decoder_ffn_dim=8 * dim,
            num_queries=queries,
            auxiliary_loss=True,
            num_labels=num_classes,
        )
        return DabDetrForObjectDetection(config)
    if architecture == "deformable_detr":
        config = DeformableDetrConfig(
            backbone_config=TorchvisionBackboneConfig(backbone, out_indices=[1, 2, 3]),
            d_model=dim,
            encoder_layers=encoder_layers or 6,
            decoder_layers=decoder_layers,
            encoder_ffn_dim=4 * dim,
            decoder_ffn_dim=4 * dim,
            num_queries=queries,
            auxiliary_loss=True,
            with_box_refine=refine,
            num_labels=num_classes,
        )
        return DeformableDetrForObjectDetection(config)
    if architecture == "rt_detr":
        config = RTDetrConfig(
            backbone_config=TorchvisionBackboneConfig(backbone, out_indices=[1, 2, 3]),
            encoder_in_channels=list(BACKBONES[backbone][1][1:]),
            encoder_hidden_dim=dim,
            d_model=dim,
            decoder_in_channels=[dim] * 3,
            encoder_layers=encoder_layers or 1,
            decoder_layers=decoder_layers,
            encoder_ffn_dim=4 * dim,
            decoder_ffn_dim=4 * dim,
            num_queries=queries,
            num_denoising=denoising,
            freeze_backbone_batch_norms=False,
            num_labels=num_classes,
        )
        return RTDetrForObjectDetection(config)
    raise ValueError(f"architecture must be dab_detr, deformable_detr or rt_detr, got {architecture!r}")


def backbone_of(detr: nn.Module) -> nn.Module:
    """The torchvision network inside, to load weights into."""
    return next(module for module in detr.modules() if isinstance(module, TorchvisionBackbone)).body


def label_embedding_of(detr: nn.Module) -> Tensor | None:
    """What RT-DETR's denoising queries embed classes with [C + 1, D]; None for the others."""
    embedding = getattr(detr.model, "denoising_class_embed", None)
    return None if embedding is None else embedding.weight.detach()
