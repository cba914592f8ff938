"""Compiles every Triton kernel for several devices, with no GPU present, and reads what each kernel takes.

    python tests/triton_aot.py sm_90 gfx942   prints registers, shared memory and spills (bytes) as JSON
    python tests/triton_aot.py --write        compiles for every target and writes triton_budget.json

The ops run on meta tensors while `launch` is replaced: so what is compiled is what a real call would launch,
with the same constants and the same knowledge of strides and alignment. The budget is what was measured,
registers rounded up to a multiple of 16 plus 16, since compilers differ; spills have no slack.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from kdfast.triton_kernels import (
    divergence,
    js_div,
    kl_div,
    reverse_kl_div,
    rows,
    scale_grad,
    skew_kl_div,
    tv_dist,
)
from kdfast.triton_kernels.divergence_kernels import total_kernel
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MEMBERS = {
    "kl_div": kl_div.MEMBER,
    "reverse_kl_div": reverse_kl_div.MEMBER,
    "js_div": js_div.MEMBER,
    "skew_kl_div": skew_kl_div.MEMBER,
    "tv_dist": tv_dist.MEMBER,
}
BUDGET = Path(__file__).with_name("triton_budget.json")


class OfflineDriver:
    """What Triton's compiler asks of a driver."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)  # the key of the kernels compiled so far

    def get_current_stream(self, device: str) -> int:
        return 0


class Compiler:
    """Takes the place of launch.launch: compiles what it is asked to run."""

    def __init__(self) -> None:
        self.compiled: dict[str, object] = {}
        self.case = ""

    def __call__(self, kernel, programs: int, *, device: torch.device, **arguments) -> None:
        name = kernel.__name__ if kernel is total_kernel else f"{self.case} {kernel.__name__}"
        if name not in self.compiled:
            self.compiled[name] = kernel.warmup(grid=(programs,), **arguments)


def compile_all(compiler: Compiler) -> None:
    """Calls every op on meta tensors: rows in one tile, rows of many, images; each member of the family."""

    def logits(*shape: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty(shape, dtype=dtype, device="meta"), torch.empty(shape, dtype=dtype, device="meta")

    def forward(
        name: str, label: str, shape: tuple[int, ...], dtype: torch.dtype, with_grad: bool = True
    ) -> None:
        compiler.case = f"{name} {label} {str(dtype)[6:]}" + ("" if with_grad else " state")
        divergence.forward(
            MEMBERS[name], *logits(*shape, dtype=dtype), None, [1], 2.0, 4.0, 0.5, 1, with_grad
        )

    number = torch.empty((), device="meta")
    for name, member in MEMBERS.items():
        forward(name, "256x1000", (256, 1000), torch.bfloat16)
        forward(name, "8192x128256", (8192, 128256), torch.bfloat16)
        forward(name, "4x19x128x256", (4, 19, 128, 256), torch.float32)
        compiler.case = f"{name} 256x1000 bfloat16"
        student, teacher = logits(256, 1000, dtype=torch.bfloat16)
        state = torch.empty(256, 8, device="meta")
        divergence.backward(member, number, number, student, teacher, None, state, [1], 2.0, 4.0, 0.5)
    forward("kl_div", "256x1000", (256, 1000), torch.bfloat16, with_grad=False)
    forward("kl_div", "256x8192", (256, 8192), torch.float32)
    forward("kl_div", "8192x128256", (8192, 128256), torch.float32)
    forward("kl_div", "16x19x512x512", (16, 19, 512, 512), torch.bfloat16)
    forward("js_div", "256x1000", (256, 1000), torch.float64)
    compiler.case = "bfloat16"
    scale_grad.scale_grad_(logits(256, 1000, dtype=torch.bfloat16)[0], number)


def usage(kernel) -> dict[str, int]:
    """Registers a thread, shared memory in bytes, spilled bytes a thread."""
    if "cubin" in kernel.asm:
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            Path(file.name).write_bytes(kernel.asm["cubin"])
            text = subprocess.run(
                [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
        registers, stack, local = (
            int(re.search(rf"{key}:(\d+)", text)[1]) for key in ("REG", "STACK", "LOCAL")
        )
        spills = stack + local
    else:
        text = kernel.asm["amdgcn"]
        registers, spills = (
            int(re.search(rf"\.{key}:\s*(\d+)", text)[1])
            for key in ("vgpr_count", "private_segment_fixed_size")
        )
    return {"registers": registers, "shared": kernel.metadata.shared, "spills": spills}


def measure(target: str) -> dict[str, dict[str, int]]:
    """Every kernel's usage on one target."""
    driver.set_active(OfflineDriver(TARGETS[target]))
    rows.WARP = TARGETS[target].warp_size
    compiler = Compiler()
    divergence.launch = scale_grad.launch = compiler
    compile_all(compiler)
    return {name: usage(kernel) for name, kernel in compiler.compiled.items()}


def with_slack(measured: dict[str, int]) -> dict[str, int]:
    return measured | {"registers": -(-measured["registers"] // 16) * 16 + 16}


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted == ["--write"]:
        budget = {t: {name: with_slack(x) for name, x in measure(t).items()} for t in TARGETS}
        BUDGET.write_text(json.dumps(budget, indent=1) + "\n")
    else:
        print(json.dumps({target: measure(target) for target in wanted}))
