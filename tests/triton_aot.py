"""Compiles every Triton kernel for several devices, with no GPU present, and reads what each kernel takes.

    python tests/triton_aot.py sm_90 gfx942   prints registers, shared memory and spills (bytes) as JSON
    python tests/triton_aot.py --write        compiles for every target and writes triton_budget.json
    python tests/triton_aot.py --widen        the same with another version of Triton: nothing shrinks

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
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from kdfast import triton_kernels
from kdfast.triton_kernels import (
    attention_masks,
    bspline_basis,
    cross_entropy_kl_div,
    divergence,
    kan,
    kan_edge_stats,
    kan_linear,
    nd_loss,
    normalized_mse,
    rows,
    scale_grad,
    selection_masks,
    weighted_mse,
)
from kdfast.triton_kernels.divergence_kernels import total_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
DIVERGENCES = ("kl_div", "reverse_kl_div", "js_div", "skew_kl_div", "tv_dist")
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

    def __call__(self, kernel, programs: int, arguments: tuple = (), **named) -> None:
        name = kernel.__name__ if kernel is total_kernel else f"{self.case} {kernel.__name__}"
        if name not in self.compiled:
            self.compiled[name] = kernel.warmup(*arguments, grid=(programs,), **named)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def compile_divergences(compiler: Compiler) -> None:
    """Rows in one tile, rows of many, images; each member of the family, forward and backward."""

    def forward(name: str, shape: tuple[int, ...], dtype: torch.dtype, with_grad: bool = True) -> None:
        sizes = "x".join(map(str, shape))
        compiler.case = f"{name} {sizes} {str(dtype)[6:]}" + ("" if with_grad else " state")
        member, x = getattr(triton_kernels, name).MEMBER, meta(*shape, dtype=dtype)
        divergence.forward(member, x, torch.empty_like(x), None, [1], 2.0, 4.0, 0.5, 1, with_grad)

    for name in DIVERGENCES:
        forward(name, (8192, 128256), torch.bfloat16)
        forward(name, (4, 19, 128, 256), torch.float32)
        forward(name, (256, 1000), torch.bfloat16)
        member, x = getattr(triton_kernels, name).MEMBER, meta(256, 1000, dtype=torch.bfloat16)
        divergence.backward(member, meta(), meta(), x, x, None, meta(256, 8), [1], 2.0, 4.0, 0.5)
    forward("kl_div", (256, 1000), torch.bfloat16, with_grad=False)
    forward("kl_div", (256, 8192), torch.float32)
    forward("kl_div", (8192, 128256), torch.float32)
    forward("kl_div", (16, 19, 512, 512), torch.bfloat16)
    forward("js_div", (256, 1000), torch.float64)


def compile_row_losses(compiler: Compiler) -> None:
    """Cross entropy and KL, plain and with everything; forward and backward."""
    for shape, smoothing in (((4096, 1000), 0.0), ((8192, 128256), 0.1)):
        compiler.case = "x".join(map(str, shape)) + " bfloat16"
        x, index, state = (
            meta(*shape, dtype=torch.bfloat16),
            meta(shape[0], dtype=torch.int64),
            meta(shape[0], 9),
        )
        inputs = (x, torch.empty_like(x), index, None, meta(shape[1]) if smoothing else None, None)
        options = ([1], 4.0, 16.0, smoothing, 0.0, 0.0, -100)
        cross_entropy_kl_div.forward(*inputs, *options, 1, False)
        cross_entropy_kl_div.backward(meta(), meta(), state, meta(), meta(), *inputs, *options)


def compile_features(compiler: Compiler) -> None:
    """The losses on features, and what scales a gradient."""
    compiler.case = "bfloat16"
    scale_grad.scale_grad_(meta(256, 1000, dtype=torch.bfloat16), meta())
    compiler.case = "256x512 bfloat16"
    x = meta(256, 512, dtype=torch.bfloat16)
    nd_loss.nd_loss(x, x, meta(100, 512), meta(256, dtype=torch.int64), None, -100, 1, True)
    compiler.case = "8x4096x256 bfloat16"
    x = meta(8, 4096, 256, dtype=torch.bfloat16)
    normalized_mse.normalized_mse(x, x, True, 1e-6, 1.0, True, True)
    weighted_mse.weighted_mse(x, x, meta(8, 4096), meta(8, 256), None, True)


def compile_kan(compiler: Compiler) -> None:
    """The layer by both plans, cubic; its statistics; the basis."""

    def layer(intervals: int) -> tuple:
        x, knots = meta(4096, 256), meta(256, intervals + 7)
        edges = meta(256, 256, intervals + 3), knots, 3, meta(256, 256), meta(256, 256), 0
        return x, *edges

    for name, intervals in (("dense", 5), ("local", 64)):
        compiler.case = f"4096x256-256-G{intervals}"
        made = kan.layer_of(*layer(intervals))
        assert kan.plan(made) == name
        kan_linear.kan_linear(*layer(intervals))
        kan_linear.kan_linear_backward(meta(4096, 256), *layer(intervals), 3)
    compiler.case = "4096x256-256-G5"
    edges = [meta(256, 256) for _ in range(4)]
    kan_edge_stats.kan_edge_stats(*layer(5))
    kan_edge_stats.kan_edge_stats_backward(*edges, *layer(5))
    bspline_basis.bspline_basis(meta(4096, 256), meta(256, 12), 3, 0, 0)


def compile_attention(compiler: Compiler) -> None:
    """A detector's P3 in bfloat16, and float32 with every mask; forward and backward."""
    for dtype, masked in ((torch.bfloat16, False), (torch.float32, True)):
        compiler.case = f"16x128x15200 M=6 {str(dtype)[6:]}" + (" masked" if masked else "")
        x, value = meta(16, 128, 15200, dtype=dtype), meta(16, 6, 15200, dtype=dtype)
        flags = meta(16, 15200, dtype=torch.bool) if masked else None
        rest = (0.088, flags, meta(16) if masked else None, flags)
        out, mean, lse = attention_masks.attention_masks(x, x, value, *rest)
        attention_masks.attention_masks_backward(out, mean, out, lse, x, x, value, *rest)
        compiler.case = f"16x256x15200 M=6 {str(dtype)[6:]}" + (" masked" if masked else "")
        fused, units, share = meta(16, 256, 15200, dtype=dtype), meta(6, 256), meta(16)
        spatial, mean = selection_masks.selection_masks(fused, units, flags, share)
        selection_masks.selection_masks_backward(spatial, mean, spatial, fused, units, flags, share)


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


def all_kernels() -> set[str]:
    """The names of the package's kernels: its jitted functions that are called *_kernel."""
    modules = [module for name, module in sys.modules.items() if name.startswith("kdfast.triton_kernels.")]
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}


def measure(target: str) -> dict[str, dict[str, int]]:
    """Every kernel's usage on one target."""
    driver.set_active(OfflineDriver(TARGETS[target]))
    rows.WARP = TARGETS[target].warp_size
    compiler = Compiler()
    for name, module in list(sys.modules.items()):
        if name.startswith("kdfast.triton_kernels.") and hasattr(module, "launch"):
            module.launch = compiler
    compile_divergences(compiler)
    compile_row_losses(compiler)
    compile_features(compiler)
    compile_kan(compiler)
    compile_attention(compiler)
    missing = all_kernels() - {name.split()[-1] for name in compiler.compiled}
    assert not missing, f"no call compiles {', '.join(sorted(missing))}"
    return {name: usage(kernel) for name, kernel in compiler.compiled.items()}


def with_slack(measured: dict[str, int]) -> dict[str, int]:
    return measured | {"registers": -(-measured["registers"] // 16) * 16 + 16}


def larger(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: max(n, b.get(key, 0)) for key, n in a.items()}


def write_budget(*, keep: bool) -> None:
    """Measures every target and writes the budget; `keep`: nothing in it shrinks."""
    old = json.loads(BUDGET.read_text()) if keep else {}
    budget = {
        target: {
            name: larger(with_slack(use), old.get(target, {}).get(name, {}))
            for name, use in measure(target).items()
        }
        for target in TARGETS
    }
    BUDGET.write_text(json.dumps(budget, indent=1) + "\n")


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if wanted in (["--write"], ["--widen"]):
        write_budget(keep=wanted == ["--widen"])
    else:
        print(json.dumps({target: measure(target) for target in wanted}))
