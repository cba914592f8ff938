"""The detection form: ND and KL on every sampled region of Faster R-CNN.

    loss = the detector's own + kd T^2 KL(teacher || student class logits) + nd L_nd(box embeddings)

The regions are the student's: its proposals, sampled as for its own training (512 an image in the paper),
background included. The teacher pools its own pyramid at the same regions and runs its box head on them.
Class means [classes + 1, D] are of the teacher's box embeddings, background (class 0 in torchvision) a class
like the others. With `review`, the KL makes way for ReviewKD between the pyramids (ReviewKD++).
arXiv 2305.17007.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss

import kdfast
import kdfast.functional as KF
from kdfast.distill.frozen import Frozen
from kdfast.recipes.nd.adapter import EmbeddingAdapter
from kdfast.recipes.nd.review import ReviewKD

Targets = list[dict[str, Tensor]]


class Regions(NamedTuple):
    """Sampled regions of a batch: boxes of each image, class of each region [R], pyramid, losses so far."""

    boxes: list[Tensor]
    labels: Tensor
    levels: dict[str, Tensor]
    sizes: list[tuple[int, int]]
    losses: dict[str, Tensor]


class Compared(NamedTuple):
    """What the distillation losses compare: class logits [R, K], embeddings [R, D], classes [R], pyramids."""

    logits: Tensor
    teacher_logits: Tensor
    features: Tensor
    teacher_features: Tensor
    labels: Tensor
    levels: dict[str, Tensor]
    teacher_levels: dict[str, Tensor]


def sample_regions(detector: nn.Module, images: ImageList, targets: Targets) -> tuple[Regions, list[Tensor]]:
    """The detector up to its sampled proposals, in training mode, and their box regression targets."""
    levels = detector.backbone(images.tensors)
    proposals, losses = detector.rpn(images, levels, targets)
    boxes, _, labels, wanted = detector.roi_heads.select_training_samples(proposals, targets)
    return Regions(boxes, torch.cat(labels), levels, images.image_sizes, losses), wanted


def box_features(detector: nn.Module, levels: dict[str, Tensor], regions: Regions) -> Tensor:
    """Embeddings [R, D] of the detector's box head for the regions, on its own pyramid."""
    heads = detector.roi_heads
    return heads.box_head(heads.box_roi_pool(levels, regions.boxes, regions.sizes))


class NDDetector(nn.Module):
    """A student Faster R-CNN that learns from a teacher: in training, (images, targets) -> losses to add up,
    with "kd" and "nd" among them, weighted; in evaluation, images -> the student's detections.

    Args:
        student, teacher: torchvision's FasterRCNN with the same classes and the same image sizes.
        class_means: of the teacher's box embeddings [classes + 1, D]; see `region_means`.
        kd_weight, nd_weight: 1.0 and 1.5 (ResNet-18), 1.0 and 1.0 (ResNet-50, MobileNetV2) in the paper.
        review: ReviewKD between the pyramids in place of the KL.

    Raises ValueError where the two do not fit: classes, image sizes, pyramid levels, width of the means.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        class_means: Tensor,
        *,
        kd_weight: float = 1.0,
        nd_weight: float = 1.5,
        temperature: float = 1.0,
        review: bool = False,
    ) -> None:
        super().__init__()
        check_pair(student, teacher, class_means)
        self.student, self._teacher = student, Frozen(teacher)
        self.kd_weight, self.nd_weight, self.temperature = kd_weight, nd_weight, temperature
        ours, theirs = (model.roi_heads.box_predictor.cls_score.in_features for model in (student, teacher))
        self.adapter = nn.Identity() if ours == theirs else EmbeddingAdapter(ours, theirs)
        self.register_buffer("class_means", class_means, persistent=False)
        self.review = None
        if review:
            shapes = [[(model.backbone.out_channels, 1, 1)] * 4 for model in (student, teacher)]
            self.review = ReviewKD(*shapes)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher, in evaluation mode whatever `.train()` says, and in no state dict."""
        return self._teacher.module

    def forward(self, images: list[Tensor], targets: Targets | None = None) -> dict[str, Tensor] | Targets:
        if not self.training:
            return self.student(images)
        losses, compared = self.compare(images, targets)
        kd, nd = self.distillation(compared)
        return losses | {"kd": self.kd_weight * kd, "nd": self.nd_weight * nd}

    def compare(self, images: list[Tensor], targets: Targets) -> tuple[dict[str, Tensor], Compared]:
        """The student's own losses, and both networks' outputs on its regions."""
        batch, targets = self.student.transform(images, targets)
        regions, wanted = sample_regions(self.student, batch, targets)
        features = box_features(self.student, regions.levels, regions)
        logits, deltas = self.student.roi_heads.box_predictor(features)
        classes, boxes = fastrcnn_loss(logits, deltas, self._split(regions), wanted)
        losses = regions.losses | {"loss_classifier": classes, "loss_box_reg": boxes}
        with torch.no_grad():
            levels = self.teacher.backbone(batch.tensors)
            guide = box_features(self.teacher, levels, regions)
            soft, _ = self.teacher.roi_heads.box_predictor(guide)
        return losses, Compared(logits, soft, features, guide, regions.labels, regions.levels, levels)

    def distillation(
        self, c: Compared, kl: Callable[..., Tensor] = KF.kl_div, nd: Callable[..., Tensor] = KF.nd_loss
    ) -> tuple[Tensor, Tensor]:
        """The two terms before their weights. kl, nd: who computes them."""
        if self.review is None:
            kd = kl(c.logits, c.teacher_logits, temperature=self.temperature)
        else:
            names = [name for name in c.levels if name != "pool"][: len(self.review.fusions)]
            kd = self.review([c.levels[name] for name in names], [c.teacher_levels[name] for name in names])
        return kd, nd(self.adapter(c.features), c.teacher_features, self.class_means, c.labels)

    @staticmethod
    def _split(regions: Regions) -> list[Tensor]:
        return list(regions.labels.split([len(boxes) for boxes in regions.boxes]))


def check_pair(student: nn.Module, teacher: nn.Module, class_means: Tensor) -> None:
    """Raise ValueError unless teacher and class means fit the student."""
    ours, theirs = (model.roi_heads.box_predictor.cls_score for model in (student, teacher))
    if ours.out_features != theirs.out_features:
        raise ValueError(
            f"the student has {ours.out_features - 1} classes and the teacher {theirs.out_features - 1}"
        )
    if tuple(class_means.shape) != (theirs.out_features, theirs.in_features):
        raise ValueError(
            f"class_means is {list(class_means.shape)}; [{theirs.out_features}, {theirs.in_features}] is "
            "needed (background and classes, width of the teacher's box head)"
        )
    for name in ("min_size", "max_size", "image_mean", "image_std"):
        given = [getattr(model.transform, name) for model in (student, teacher)]
        if tuple(given[0]) != tuple(given[1]) if name != "max_size" else given[0] != given[1]:
            raise ValueError(f"{name} is {given[0]} in the student and {given[1]} in the teacher")


@torch.no_grad()
def region_means(
    teacher: nn.Module, batches: Iterable[tuple[list[Tensor], Targets]], *, device: str = "cpu"
) -> kdfast.nn.ClassMeans:
    """Class means [classes + 1, D] of the teacher's box embeddings, over its own sampled proposals.

    A class that no region had gets a row of NaN, which the ND loss leaves out.
    """
    predictor = teacher.roi_heads.box_predictor.cls_score
    means = kdfast.nn.ClassMeans(predictor.out_features, predictor.in_features, "ignore").to(device)
    teacher.to(device).eval()
    for images, targets in batches:
        moved = [{key: value.to(device) for key, value in target.items()} for target in targets]
        batch, moved = teacher.transform([image.to(device) for image in images], moved)
        levels = teacher.backbone(batch.tensors)
        proposals, _ = teacher.rpn(batch, levels)
        boxes, _, labels, _ = teacher.roi_heads.select_training_samples(proposals, moved)
        regions = Regions(boxes, torch.cat(labels), levels, batch.image_sizes, {})
        means.update(box_features(teacher, levels, regions).float(), regions.labels)
    teacher.cpu()
    return means.cpu()
