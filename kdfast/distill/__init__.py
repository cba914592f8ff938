"""Distillation around the losses: taps, terms, the Distiller, and stored teachers."""

from kdfast.distill.adapters import AutoAdapter
from kdfast.distill.distiller import Distiller, DistillerOutput
from kdfast.distill.feature_tap import FeatureTap
from kdfast.distill.frozen import Frozen
from kdfast.distill.teacher_cache import TeacherCache
from kdfast.distill.term import Term
from kdfast.distill.top_k import TopK

__all__ = [
    "AutoAdapter",
    "Distiller",
    "DistillerOutput",
    "FeatureTap",
    "Frozen",
    "TeacherCache",
    "Term",
    "TopK",
]
