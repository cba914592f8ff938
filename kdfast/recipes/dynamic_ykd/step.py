"""One training step of Dynamic Y-KD: one stem, two arms.

    z = F(x)                               one backbone pass, with gradient
    losses of the student's head on z      ordinary Mask R-CNN
    teacher: the previous head on z, no gradient; P = 64 of its proposals an image
    distillation: both heads on the same z and P

RoIAlign of P is computed once: the teacher gets it detached. The student's regions for its own losses and P
go through stage 4 together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_loss

import kdfast
from kdfast.recipes.dynamic_ykd.inference import MergedMaskRCNN
from kdfast.recipes.dynamic_ykd.losses import Form, distillation, region_losses
from kdfast.recipes.dynamic_ykd.network import ContinualMaskRCNN, Head, Proposals, RoIOutputs

SAMPLED = 64  # proposals of an image that are distilled, of the best 2 x SAMPLED
Targets = list[dict[str, Tensor]]


class Compared(NamedTuple):
    """What is distilled: both heads' outputs of the same regions, and both RPNs'."""

    student: RoIOutputs
    teacher: RoIOutputs
    student_rpn: Proposals
    teacher_rpn: Proposals


class ContinualStep(nn.Module):
    """A network in one step of its life, in the form of torchvision's detectors.

    In training: (images, targets) -> dict of weighted losses. In evaluation: see `inference`.

    Args:
        network: trained.
        teacher: the previous step's head; None in the first step and for plain fine-tuning.
        num_old: old classes that are unlabelled in this step's images; 0 takes them for background.
        classes, masks: weights of the distillation of classes and boxes, and of masks.
        form: of the distillation of classes.
        sampled: proposals of an image that are distilled, of the best 2 x sampled.
    """

    def __init__(
        self,
        network: ContinualMaskRCNN,
        *,
        teacher: Head | None = None,
        num_old: int = 0,
        classes: float = 1.0,
        masks: float = 1.0,
        form: Form = "uce",
        sampled: int = SAMPLED,
    ) -> None:
        super().__init__()
        self.network, self.num_old, self.form, self.sampled = network, num_old, form, sampled
        self.teacher = None if teacher is None else kdfast.distill.Frozen(teacher, grad=False)
        self._weights = {"kd_classes": classes, "kd_boxes": classes, "kd_masks": masks, "kd_rpn": 1.0}

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> Any:
        if not self.training:
            return self.alone()(images)
        if targets is None:
            raise ValueError("training needs targets, got None")
        losses, compared = self.compare(images, targets)
        if compared is None:
            return losses
        terms = distillation(*compared, form=self.form)
        return losses | {name: self._weights[name] * value for name, value in terms.items()}

    def compare(self, images: list[Tensor], targets: Targets) -> tuple[dict[str, Tensor], Compared | None]:
        """The network's own losses, and what is distilled (None without a teacher)."""
        batch, targets = self.network.prepare(images, targets)
        z = self.network.backbone(batch.tensors)
        head = self.network.head
        mine = head.propose(z, batch)
        losses = rpn_losses(head, mine, targets)
        regions, matched, labels, deltas = head.sampler.select_training_samples(mine.boxes, targets)
        labels, deltas = torch.cat(labels), torch.cat(deltas)
        theirs, sampled = self._propose(z, batch)
        own, shared = head.align(z, regions), head.align(z, sampled)
        features = head.stage4(torch.cat([own, shared]))
        classes, boxes = head.predict(features)
        losses |= region_losses(classes[: len(own)], boxes[: len(own)], labels, deltas, num_old=self.num_old)
        positive = (labels > 0).nonzero().flatten()
        masks = head.masks(torch.cat([features[positive], features[len(own) :]]))
        if masks is not None:
            losses["masks"] = mask_loss(masks[: len(positive)], regions, targets, labels, matched)
            masks = masks[len(positive) :]
        if self.teacher is None:
            return losses, None
        common = RoIOutputs(classes[len(own) :], boxes[len(own) :], masks)
        return losses, Compared(common, self.teacher(shared), mine, theirs)

    def alone(self) -> MergedMaskRCNN:
        """The network in evaluation: its own module for all classes that the head knows."""
        classes = range(1, self.network.head.num_classes)
        return MergedMaskRCNN(self.network, [self.network.backbone.specific], [classes]).eval()

    @torch.no_grad()
    def _propose(self, z: Tensor, batch: ImageList) -> tuple[Proposals | None, list[Tensor]]:
        """The teacher's proposals and the sample of them; none without a teacher."""
        if self.teacher is None:
            return None, [z.new_zeros(0, 4, dtype=torch.float32) for _ in batch.image_sizes]
        proposals = self.teacher.module.propose(z.detach(), batch)
        return proposals, [sample(boxes, self.sampled) for boxes in proposals.boxes]


def sample(boxes: Tensor, count: int = SAMPLED) -> Tensor:
    """`count` at random of the best 2 x count; boxes [n, 4] come best first. All, shuffled, if fewer."""
    best = boxes[: 2 * count]
    return best[torch.randperm(len(best), device=boxes.device)[:count]]


def rpn_losses(head: Head, found: Proposals, targets: Targets) -> dict[str, Tensor]:
    """Objectness and boxes of 256 anchors an image."""
    rpn, images = head.rpn, len(found.anchors)
    labels, matched = rpn.assign_targets_to_anchors(found.anchors, targets)
    wanted = rpn.box_coder.encode(matched, found.anchors)
    objectness = found.objectness.permute(0, 2, 3, 1).reshape(-1, 1)  # [B h w A, 1], the anchors' order
    deltas = found.deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).reshape(-1, 4)
    assert len(deltas) == images * len(found.anchors[0])
    scores, boxes = rpn.compute_loss(objectness, deltas, labels, wanted)
    return {"rpn_objectness": scores, "rpn_boxes": boxes}


def mask_loss(
    masks: Tensor, regions: list[Tensor], targets: Targets, labels: Tensor, matched: list[Tensor]
) -> Tensor:
    """Binary cross-entropy of the masks of regions with an object, [R+, K, m, m]; 0, attached, without any.

    labels: of all regions, [R].
    """
    own = labels.split([len(r) for r in regions])
    kept = [label > 0 for label in own]
    return maskrcnn_loss(
        masks,
        [r[k] for r, k in zip(regions, kept, strict=True)],
        [t["masks"] for t in targets],
        [t["labels"] for t in targets],
        [m[k] for m, k in zip(matched, kept, strict=True)],
    )
