"""What there is to run: the CUDA kernels of csrc, the divergences, and the sizes that are hard on kernels."""

from __future__ import annotations

import re
from pathlib import Path

CUDA = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
SOURCES = sorted(p for p in CUDA.iterdir() if p.suffix in (".cu", ".cuh"))


def _found(pattern: str) -> list[str]:
    return sorted(
        {name for source in SOURCES for name in re.findall(pattern, source.read_text(), re.MULTILINE)}
    )


KERNELS = _found(r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s+)?(\w+)\s*\(")
DIVERGENCES = _found(r"^KD_CUDA_DIVERGENCE\((\w+)")

# Around a lane's pack, a warp, a block; then teams of a block.
COLUMNS = (1, 2, 7, 8, 9, 31, 32, 33, 255, 256, 257, 1000)
WIDE_COLUMNS = (1025, 4099)
ROWS = (0, 1, 3)
DTYPES = ("float32", "float64", "float16", "bfloat16")
# Student, teacher. Equal dtypes take the packed path where strides allow it.
MIXED = (("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16"), ("float32", "float64"),
         ("float64", "bfloat16"))  # fmt: skip
ORDERS = (("in_order", 0), ("reversed", 0), ("shuffled", 1), ("shuffled", 2))
