"""What the tests of TeacherCache store."""

from __future__ import annotations

import torch

CLASSES = 50


def logits(rows: int, classes: int = CLASSES, seed: int = 0) -> torch.Tensor:
    """A teacher's outputs, [rows, classes]: 3 N(0, 1)."""
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
