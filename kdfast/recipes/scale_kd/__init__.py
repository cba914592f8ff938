"""ScaleKD: a frozen vision transformer teaches a CNN, MLP or ViT student (arXiv 2411.06786).

    g_v = CAP_3v(f3) -> the teacher's last stage -> h_v;  o_v = CAP_4v(f4, queries h_v)      v: two views
    loss = (1 - alpha) task + alpha soft-CE + sum_v a_v (|h_v - t4|_v + |o_v - t4|_v)

f3, f4: the student's last two maps, t4: the teacher's last tokens; |.|_v: squared distance of unit
vectors, of the features (spatial view) or of the features without their mean over positions (alternative).
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Options": "options",
    "run": "recipe",
    "ScaleKD": "method",
    "Projectors": "projected",
    "Projected": "projected",
    "ViewLoss": "losses",
    "SoftCrossEntropy": "losses",
    "StudentMaps": "students",
    "TeacherParts": "teachers",
    "parts_of": "teachers",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Names come from their modules when they are asked for: the method needs no Lightning."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
