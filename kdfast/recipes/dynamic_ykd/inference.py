"""Merged inference over the modules of all tasks with the one head: `MergedMaskRCNN`.

For every task i: proposals of the head's RPN on F_i(x), softmax over all classes, classes of other tasks
dropped before the score threshold and the suppression. Then all detections together, and the best 100 of
them: the cap does not commute with the union, suppression within a class does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from kdfast.recipes.dynamic_ykd.network import ContinualMaskRCNN

Found = dict[str, Tensor]


class MergedMaskRCNN(nn.Module):
    """One network for all tasks: images -> list of dicts of boxes, labels, scores (and masks).

    Args:
        network: the last step's; its transform, shared stages and head are used.
        modules: `specific` of every task, in order; one module alone may serve all classes.
        tasks: labels of each task's classes.
        score, overlap, most: threshold of scores, of the suppression, and how many detections are kept.
    """

    def __init__(
        self,
        network: ContinualMaskRCNN,
        modules: Sequence[nn.Module],
        tasks: Sequence[Sequence[int]],
        *,
        score: float = 0.05,
        overlap: float = 0.5,
        most: int = 100,
    ) -> None:
        super().__init__()
        if len(modules) != len(tasks):
            raise ValueError(f"one module a task is needed, got {len(modules)} and {len(tasks)}")
        self.transform, self.shared, self.head = network.transform, network.backbone.shared, network.head
        self.specific = nn.ModuleList(modules)
        self.tasks = [tuple(task) for task in tasks]
        self.score, self.overlap, self.most = score, overlap, most

    @torch.no_grad()
    def forward(self, images: list[Tensor]) -> list[Found]:
        original = [tuple(image.shape[-2:]) for image in images]
        batch, _ = self.transform(images)
        stem = self.shared(batch.tensors)
        maps = [specific(stem) for specific in self.specific]
        found = [
            self._detect(z, batch, task) for z, task in zip(maps, self.tasks, strict=True)
        ]  # task -> image
        merged = [self._cap(each) for each in zip(*found, strict=True)]
        if self.head.mask_predictor is not None:
            self._add_masks(merged, maps)
        kept = [{k: v for k, v in each.items() if k != "task"} for each in merged]
        return self.transform.postprocess(kept, batch.image_sizes, original)

    def _detect(self, z: Tensor, batch: ImageList, task: tuple[int, ...]) -> list[Found]:
        boxes = self.head.propose(z, batch).boxes
        classes, deltas = self.head.predict(self.head.stage4(self.head.align(z, boxes)))
        counts = [len(b) for b in boxes]
        decoded = self.head.sampler.box_coder.decode(deltas.flatten(1), boxes)  # [R, K, 4]
        parts = zip(classes.split(counts), decoded.split(counts), batch.image_sizes, strict=True)
        return [
            select(c, clip_boxes_to_image(b, size), task, score=self.score, overlap=self.overlap)
            for c, b, size in parts
        ]

    def _cap(self, found: tuple[Found, ...]) -> Found:
        """The best of all tasks of one image, with the number of their task."""
        joined = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        counts = torch.tensor([len(each["scores"]) for each in found], device=joined["scores"].device)
        joined["task"] = torch.repeat_interleave(counts)
        best = joined["scores"].argsort(descending=True, stable=True)[: self.most]
        return {name: values[best] for name, values in joined.items()}

    def _add_masks(self, found: list[Found], maps: list[Tensor]) -> None:
        for each in found:
            each["masks"] = each["boxes"].new_zeros(len(each["boxes"]), 1, self.head.pool, self.head.pool)
        for task, z in enumerate(maps):
            rows = [each["task"] == task for each in found]
            boxes = [each["boxes"][r] for each, r in zip(found, rows, strict=True)]
            logits = self.head.masks(self.head.stage4(self.head.align(z, boxes)))
            labels = [each["labels"][r] for each, r in zip(found, rows, strict=True)]
            for each, r, masks in zip(found, rows, maskrcnn_inference(logits, labels), strict=True):
                each["masks"][r] = masks.to(each["masks"])


def select(logits: Tensor, boxes: Tensor, task: Sequence[int], *, score: float, overlap: float) -> Found:
    """Detections of one image among the classes of `task`: boxes, labels, scores, not yet capped.

    logits: [R, K], background first; boxes: [R, K, 4] in pixels, a box for each class.
    """
    labels = torch.as_tensor(task, device=boxes.device)
    scores = logits.softmax(1)[:, labels]  # over all classes, then those of the task
    row, column = (scores > score).nonzero(as_tuple=True)
    kept, values, names = boxes[row, labels[column]], scores[row, column], labels[column]
    large = remove_small_boxes(kept, 1e-2)
    kept, values, names = kept[large], values[large], names[large]
    best = batched_nms(kept, values, names, overlap)
    return {"boxes": kept[best], "scores": values[best], "labels": names[best]}
