"""kdfast: fused kernels for knowledge distillation in PyTorch.

kdfast.functional and kdfast.nn hold the losses, FeatureTap, Term, Distiller and TeacherCache put them into
training, kdfast.recipes holds the published systems, and kdfast.select chooses features.
"""

from kdfast import backend, functional, memory, nn
from kdfast.backend import use
from kdfast.distill import Distiller, FeatureTap, TeacherCache, Term
from kdfast.info import info, package_version

__version__ = package_version()

__all__ = [
    "Distiller",
    "FeatureTap",
    "TeacherCache",
    "Term",
    "backend",
    "functional",
    "info",
    "memory",
    "nn",
    "use",
]
