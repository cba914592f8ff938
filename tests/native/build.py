"""Builds kd_native with CMake and loads it.

`load()` gives the module of the quick tests; KDFAST_NATIVE_MODE=sanitize or debug chooses another build. The
sanitized one must run under a preloaded AddressSanitizer: tests/native/sanitize.sh. To build by hand:
python tests/native/build.py MODE.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
MODES = ("check", "sanitize", "debug")


class Unavailable(RuntimeError):
    """kd_native cannot be built here; the message says what is missing."""


def build(mode: str) -> Path:
    """Brings the module of one mode up to date and returns its file."""
    missing = [tool for tool in ("cmake", "ninja", "g++") if shutil.which(tool) is None]
    missing += [package for package in ("pybind11",) if importlib.util.find_spec(package) is None]
    if missing:
        raise Unavailable(f"tests/native needs {', '.join(missing)}")
    import pybind11

    folder = HERE / "build" / mode
    folder.mkdir(parents=True, exist_ok=True)
    configure = [
        "cmake",
        "-S",
        HERE,
        "-B",
        folder,
        "-G",
        "Ninja",
        f"-DKD_NATIVE_MODE={mode}",
        "--log-level=WARNING",
    ]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    with open(folder / "lock", "w") as lock:  # two pytest processes build one after the other
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in ([] if (folder / "build.ninja").exists() else [configure]) + [
            ["cmake", "--build", folder]
        ]:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    (module,) = folder.glob("kd_native*.so")
    return module


def load(mode: str | None = None) -> ModuleType:
    """The module kd_native, built first if it is out of date."""
    mode = mode or os.environ.get("KDFAST_NATIVE_MODE", "check")
    if mode not in MODES:
        raise ValueError(f"KDFAST_NATIVE_MODE must be one of {', '.join(MODES)}, got {mode}")
    spec = importlib.util.spec_from_file_location("kd_native", build(mode))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    print(build(sys.argv[1] if len(sys.argv) > 1 else "check"))
