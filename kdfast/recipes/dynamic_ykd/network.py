"""Mask R-CNN with a C4 head, cut as Dynamic Y-KD cuts it: extractor modules of tasks, and one head.

    shared      stem and stage 1 (stride 4), frozen               images -> [B, c1, H/4, W/4]
    specific    stages 2 and 3, one module a task                 -> z [B, c3, H/16, W/16]
    head        everything else, one for all tasks: the RPN, RoIAlign, stage 4, the predictors of classes,
                boxes and (with masks) of masks, which all read the same stage-4 features

After Page Fortin and Chaib-draa, arXiv 2303.06015, on torchvision's parts. Batch norms are frozen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import roi_align

from kdfast.recipes.common.dense.backbones import trunk

STRIDE = 16
MASK_CHANNELS = 256


class Proposals(NamedTuple):
    """What the RPN says. objectness [B, A, h, w] raw logits; deltas [B, 4 A, h, w], channel = 4 anchor +
    coordinate; boxes: B tensors [n, 4] in pixels of the batch, the best first; anchors: B tensors [A h w, 4].
    """

    objectness: Tensor
    deltas: Tensor
    boxes: list[Tensor]
    anchors: list[Tensor]


class RoIOutputs(NamedTuple):
    """Of R regions: classes [R, K] logits, boxes [R, K, 4] deltas, masks [R, K, m, m] logits or None."""

    classes: Tensor
    boxes: Tensor
    masks: Tensor | None


class Extractor(nn.Module):
    """Stem and stage 1, shared and frozen, and the stages 2 and 3 of one task.

    Args:
        backbone, weights: see backbones.trunk; ResNets or MobileNets.
    """

    def __init__(self, backbone: str, *, weights: str | None = None) -> None:
        super().__init__()
        stages, channels = self.stages(backbone, weights)
        self.shared, self.specific = stages[0].requires_grad_(False), stages[1]
        self.channels = channels[2]

    @staticmethod
    def stages(backbone: str, weights: str | None) -> tuple[list[nn.Sequential], tuple[int, ...]]:
        """The backbone in three: up to stage 1, stages 2 and 3, stage 4; and the channels of all four."""
        body, ends, channels = trunk(backbone, weights=weights, frozen_norm=True)
        layers = list(body.named_children())
        names = [name for name, _ in layers]
        cuts = [names.index(ends[i]) + 1 for i in (0, 2, 3)]
        parts = [layers[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        return [nn.Sequential(OrderedDict(part)) for part in parts], channels

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W], normalised -> z."""
        return self.specific(self.shared(images))


class Head(nn.Module):
    """The one head: z -> proposals, pooled regions -> classes, boxes, masks.

    Args:
        stage4: the last stage of the backbone, for regions.
        channels: of z and of the last stage.
        num_classes: K, with the background.
        masks: with a mask predictor.
        anchor_sizes: sides of the anchors in pixels; three ratios each.
        pool: RoIAlign's grid is pool x pool; masks have the same, stage 4 halves it before they double it.
        regions: how many regions of an image are trained on.
        top: proposals kept before and after the RPN's suppression, in training and in testing.
    """

    def __init__(
        self,
        stage4: nn.Module,
        channels: tuple[int, int],
        num_classes: int,
        *,
        masks: bool = True,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        pool: int = 14,
        regions: int = 512,
        top: tuple[int, int] = (2000, 1000),
    ) -> None:
        super().__init__()
        anchors = AnchorGenerator((tuple(anchor_sizes),), ((0.5, 1.0, 2.0),))
        keep = {"training": top[0], "testing": top[1]}
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(channels[0], anchors.num_anchors_per_location()[0]),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 6 * keep["training"], "testing": 6 * keep["testing"]},
            post_nms_top_n=keep,
            nms_thresh=0.7,
        )
        self.stage4 = stage4
        self.box_predictor = FastRCNNPredictor(channels[1], num_classes)
        self.mask_predictor = MaskRCNNPredictor(channels[1], MASK_CHANNELS, num_classes) if masks else None
        self.pool = pool
        # Of torchvision's, only the matching of proposals to objects and the coding of boxes are used.
        self.sampler = RoIHeads(None, None, None, 0.5, 0.5, regions, 0.25, None, 0.05, 0.5, 100)

    @property
    def num_classes(self) -> int:
        """K, with the background."""
        return self.box_predictor.cls_score.out_features

    def propose(self, z: Tensor, images: ImageList) -> Proposals:
        """Proposals; how many depends on train() and eval()."""
        objectness, deltas = self.rpn.head([z])
        anchors = self.rpn.anchor_generator(images, [z])
        flat_objectness, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        decoded = self.rpn.box_coder.decode(flat_deltas.detach(), anchors).view(len(anchors), -1, 4)
        count = [objectness[0][0].numel()]
        boxes, _ = self.rpn.filter_proposals(decoded, flat_objectness, images.image_sizes, count)
        return Proposals(objectness[0], deltas[0], boxes, anchors)

    def align(self, z: Tensor, boxes: list[Tensor]) -> Tensor:
        """RoIAlign: [R, c3, pool, pool], R the number of all boxes together."""
        return roi_align(z, boxes, self.pool, spatial_scale=1 / STRIDE, sampling_ratio=2)

    def predict(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Stage-4 features [R, c4, m/2, m/2] -> logits [R, K], deltas [R, K, 4]."""
        classes, boxes = self.box_predictor(features.mean((2, 3)))
        return classes, boxes.unflatten(1, (-1, 4))

    def masks(self, features: Tensor) -> Tensor | None:
        """Stage-4 features -> mask logits [R, K, m, m], or None without masks."""
        return None if self.mask_predictor is None else self.mask_predictor(features)

    def forward(self, aligned: Tensor) -> RoIOutputs:
        """Pooled regions [R, c3, pool, pool] -> all that is said of them."""
        features = self.stage4(aligned)
        return RoIOutputs(*self.predict(features), self.masks(features))


class ContinualMaskRCNN(nn.Module):
    """Extractor and head with torchvision's transform: one task's network.

    Args:
        num_classes: K of the first step, with the background.
        short_side, long_side: size of the images; see DetectionSet.
        head: further options of Head.
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        *,
        short_side: int = 800,
        long_side: int = 1333,
        weights: str | None = None,
        **head: Any,
    ) -> None:
        super().__init__()
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        self.transform = GeneralizedRCNNTransform(short_side, long_side, mean, std)
        self.backbone = Extractor(backbone, weights=weights)
        stages, channels = Extractor.stages(backbone, weights)
        self.head = Head(stages[2], (channels[2], channels[3]), num_classes, **head)

    def prepare(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Normalised, padded images and targets in their pixels."""
        return self.transform(images, targets)
