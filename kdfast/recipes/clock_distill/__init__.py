"""CLoCKDistill: encoder memories and target-aware queries distilled between DETRs (arXiv 2502.10683).

    loss = the detector's + LCMD + TCLD        see losses.py

A teacher DETR, a student with a smaller backbone alone and the same one distilled are trained on boxes of
COCO, VOC or KITTI folders, by default of blood cells. queries.py makes the target-aware queries, inject.py
takes them through both decoders in the pass that they make anyway, families.py knows the three DETRs.
"""

from kdfast.recipes.clock_distill.detector import DetrDetection, DetrDetector, distiller, labels_of
from kdfast.recipes.clock_distill.inject import DetrOutput, DetrWithQueries
from kdfast.recipes.clock_distill.losses import (
    ConsistentLogitDistillation,
    MemoryDistillation,
    confidences,
    fgd_weights,
)
from kdfast.recipes.clock_distill.models import build_detr, label_embedding_of
from kdfast.recipes.clock_distill.options import Options
from kdfast.recipes.clock_distill.queries import ExternalQueries, TargetQueries
from kdfast.recipes.clock_distill.recipe import run

__all__ = [
    "ConsistentLogitDistillation",
    "DetrDetection",
    "DetrDetector",
    "DetrOutput",
    "DetrWithQueries",
    "ExternalQueries",
    "MemoryDistillation",
    "Options",
    "TargetQueries",
    "build_detr",
    "confidences",
    "distiller",
    "fgd_weights",
    "label_embedding_of",
    "labels_of",
    "run",
]
