"""Every Triton kernel compiles for every target without a GPU, within a committed budget.

`python tests/triton_aot.py --write` writes the budget anew. Each target compiles in a process of its own,
outside Triton's interpreter.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUDGET = json.loads((HERE / "triton_budget.json").read_text())


@pytest.fixture(scope="module")
def measured(need):
    """target -> kernel -> registers, shared memory, spills; two targets at a time."""
    need.module("triton")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    found = {}
    for targets in (("sm_80", "sm_90"), ("sm_100", "gfx942")):
        runs = [
            subprocess.Popen(
                [sys.executable, HERE / "triton_aot.py", t], stdout=subprocess.PIPE, env=environment
            )
            for t in targets
        ]
        for run in runs:
            out, _ = run.communicate(timeout=900)
            assert run.returncode == 0, f"{run.args} failed"
            found |= json.loads(out)
    return found


def show(found: dict) -> None:
    print("\nregisters / shared bytes / spilled bytes a thread")
    print(f"{'':60}" + "".join(f"{target:>18}" for target in found))
    for kernel in next(iter(found.values())):
        uses = (found[target][kernel] for target in found)
        print(
            f"{kernel:60}"
            + "".join(f"{u['registers']:>8}/{u['shared']}/{u['spills']}".rjust(18) for u in uses)
        )


@pytest.mark.slow
def test_every_kernel_keeps_its_budget(measured, capsys):
    with capsys.disabled():
        show(measured)
    assert measured.keys() == BUDGET.keys()
    for target, kernels in measured.items():
        assert kernels.keys() == BUDGET[target].keys(), (
            "write the budget anew: python tests/triton_aot.py --write"
        )
        for kernel, uses in kernels.items():
            over = {key: n for key, n in uses.items() if n > BUDGET[target][kernel][key]}
            assert not over, f"{target} {kernel}: {over} is more than {BUDGET[target][kernel]}"
