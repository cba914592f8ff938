"""ND for detection: KD++ and ReviewKD++ of Faster R-CNN, on all regions that the student samples.

    loss = the detector's own + kd KL(teacher || student class logits) + nd L_nd(box embeddings)

The teacher's box head runs on the student's proposals; `kdfast.recipes.nd.detection` says more. Data: BCCD's
blood cells, or your COCO, VOC or KITTI folder. The published runs are of COCO with detectron2's schedule:

    kdfast distill nd_detection --data coco --data-root COCO --backbone resnet18 --teacher-backbone resnet101
        --short-side 800 --long-side 1333 --fpn-channels 256 --regions 512 --anchor-scale 1
        --epochs 12 --batch-size 8 --lr 0.01 --teacher-weights TEACHER.pth
"""

from kdfast.recipes.nd_detection.options import Options
from kdfast.recipes.nd_detection.recipe import run

__all__ = ["Options", "run"]
