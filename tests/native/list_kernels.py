"""Prints every CUDA kernel, every planted bug and every case that runs on the emulated device.

python tests/native/list_kernels.py [-v]      -v names each case; without it cases are counted by test.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import kernels

TESTS = Path(__file__).resolve().parents[1]


def collected() -> list[str]:
    """The ids of all cases, as pytest finds them."""
    files = sorted(TESTS.glob("test_native_*.py"))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *map(str, files)]
    done = subprocess.run(command, text=True, capture_output=True, cwd=TESTS.parent)
    cases = [line for line in done.stdout.splitlines() if "::" in line]
    if done.returncode != 0 or not cases:
        raise SystemExit(done.stdout + done.stderr)
    return cases


def main() -> None:
    print("CUDA kernels (csrc/cuda)")
    for source, names in kernels.kernels_by_file(kernels.CUDA).items():
        print(f"  {source:24} {', '.join(names)}")
    print(f"divergences on divergence.cuh: {', '.join(kernels.DIVERGENCES)}")
    print("sample kernels, sound and with planted bugs (tests/native/planted)")
    for source, names in kernels.kernels_by_file(kernels.PLANTED).items():
        print(f"  {source:24} {', '.join(names)}")
    cases = collected()
    print(f"cases: {len(cases)}")
    if "-v" in sys.argv[1:]:
        print("\n".join(cases))
        return
    for test, count in Counter(re.sub(r"\[.*", "", case) for case in cases).items():
        print(f"  {count:5} {test}")


if __name__ == "__main__":
    main()
