"""ACAM-KD: masks that student and teacher make together, for detectors and segmenters (ICCV 2025).

Lan and Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation",
arXiv 2503.06307. The modules are importable: `ACAMDistiller` over a pyramid, `ACAMLevel` for one map.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"ACAMDistiller": "method", "ACAMLevel": "level", "ACAMTerm": "method"}
_HOME |= {"Options": "options", "run": "recipe"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """The method alone needs neither Lightning nor torchvision: names are imported when asked for."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
