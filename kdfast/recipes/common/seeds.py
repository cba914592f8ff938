"""Seeds that depend on where the run is, not on how it got there.

Every stage and every epoch starts from `derive(seed, stage, epoch, rank)`. A resumed run therefore draws
exactly the numbers that the straight run drew, whatever happened before in its process, and no generator
state needs saving.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(*parts: object) -> int:
    """A 32-bit seed from any printable parts: the same on every machine, unrelated for neighbouring parts."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def seed_all(*parts: object) -> None:
    """Seed Python's, numpy's and torch's generators (CPU and every GPU) from `derive(*parts)`."""
    seed = derive(*parts)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
