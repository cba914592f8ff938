"""What there is to run: the CUDA kernels, the divergences, and the sizes that are hard on kernels."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUDA = HERE.parents[1] / "csrc" / "cuda"
PLANTED = HERE / "planted"
_KERNEL = r"__global__\s+void\s+(?:__launch_bounds__\(((?:[^()]|\([^()]*\))*)\)\s+)?(\w+)\s*\("
_CONSTANT = r"\b(k\w+) = ([\w *+/()-]+)[,;]"


def kernels_by_file(folder: Path) -> dict[str, list[str]]:
    """The __global__ functions of each .cu and .cuh file that has any."""
    sources = sorted(p for p in folder.iterdir() if p.suffix in (".cu", ".cuh"))
    found = {p.name: [name for _, name in re.findall(_KERNEL, p.read_text())] for p in sources}
    return {name: names for name, names in found.items() if names}


def _constants(text: str) -> dict[str, str]:
    lines = re.findall(r"^constexpr int [^;]*;", text, re.M)
    return dict(pair for line in lines for pair in re.findall(_CONSTANT, line))


def _evaluate(expression: str, constants: dict[str, str]) -> int:
    while names := re.findall(r"\bk\w+", expression):
        expression = re.sub(rf"\b{names[0]}\b", f"({constants[names[0]]})", expression)
    return int(eval(expression))


def launch_bounds() -> dict[str, dict[str, int]]:
    """kernel -> "float" and "double" -> the threads its __launch_bounds__ allows, from the source."""
    of_number = {"float": "1024", "double": "512"}  # max_threads() of divergence_plan.cuh
    shared, bounds = {}, {}
    for path in sorted(CUDA.glob("*.cuh")):
        shared |= _constants(path.read_text())
    for path in sorted(CUDA.glob("*.cu*")):
        constants = shared | _constants(path.read_text())
        for bound, kernel in re.findall(_KERNEL, path.read_text()):
            texts = {
                number: re.sub(r"max_threads<.*>\(\)", most, bound) for number, most in of_number.items()
            }
            bounds[kernel] = {n: _evaluate(text, constants) for n, text in texts.items()}
    return bounds


KERNELS = sorted(name for names in kernels_by_file(CUDA).values() for name in names)
DIVERGENCES = sorted(
    name for p in CUDA.glob("*.cu") for name in re.findall(r"^KD_CUDA_DIVERGENCE\((\w+)", p.read_text(), re.M)
)

# Around a lane's pack, a warp, a block; then teams of a block.
COLUMNS = (1, 2, 7, 8, 9, 31, 32, 33, 255, 256, 257, 1000)
WIDE_COLUMNS = (1025, 4099)
ROWS = (0, 1, 3)
DTYPES = ("float32", "float64", "float16", "bfloat16")
# Student, teacher. Equal dtypes take the packed path where strides allow it.
MIXED = (("float32", "bfloat16"), ("bfloat16", "float32"), ("float16", "bfloat16"), ("float32", "float64"),
         ("float64", "bfloat16"))  # fmt: skip
ORDERS = (("in_order", 0), ("reversed", 0), ("shuffled", 1), ("shuffled", 2))
