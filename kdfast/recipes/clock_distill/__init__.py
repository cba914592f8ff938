"""CLoCKDistill: encoder memories and target-aware queries distilled between DETR detectors (arXiv 2502.10683)."""

from kdfast.recipes.clock_distill.inject import DetrOutput, DetrWithQueries
from kdfast.recipes.clock_distill.losses import (
    ConsistentLogitDistillation,
    MemoryDistillation,
    confidences,
    fgd_weights,
)
from kdfast.recipes.clock_distill.models import backbone_of, build_detr, label_embedding_of
from kdfast.recipes.clock_distill.queries import ExternalQueries, TargetQueries

__all__ = [
    "ConsistentLogitDistillation",
    "DetrOutput",
    "DetrWithQueries",
    "ExternalQueries",
    "MemoryDistillation",
    "TargetQueries",
    "backbone_of",
    "build_detr",
    "confidences",
    "fgd_weights",
    "label_embedding_of",
]
