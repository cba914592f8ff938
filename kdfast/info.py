"""What this installation is and what can run here: `python -m kdfast`, `kdfast info`."""

from __future__ import annotations

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from kdfast import backend


def _build_facts() -> dict[str, Any]:
    try:
        built = importlib.import_module("kdfast._build")
    except ImportError:
        return {}
    return {name.lower(): getattr(built, name) for name in vars(built) if name.isupper()}


def package_version() -> str:
    """kdfast's version; unlike `info`, without a look at any device."""
    built = _build_facts().get("version")
    if built is not None:
        return built
    try:
        return version("kdfast")
    except PackageNotFoundError:
        return "unknown"


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_level() -> str | None:
    """The instruction level in use, or the sentence that says why the one asked for cannot be."""
    if backend.reason_against("native", "cpu") is not None:
        return None
    try:
        return ("baseline", "avx2", "avx512")[torch.ops.kdfast.cpu_level()]
    except RuntimeError as error:
        return str(error).splitlines()[0]


def info() -> dict[str, Any]:
    """Facts of this installation: versions, build, devices, and each backend's reason for not running, by
    device."""
    missing = {"cpu": None, "cuda": None if torch.cuda.is_available() else "there is no GPU"}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": package_version(),
        "build": _build_facts(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "triton": _version_of("triton"),
        "cpu_level": _cpu_level(),
        "cpu_threads": torch.get_num_threads(),
        "gpus": gpus,
        "backends": {
            device: {name: backend.reason_against(name, device) or none for name in backend.BACKENDS}
            for device, none in missing.items()
        },
        "environment": {name: value for name, value in os.environ.items() if name.startswith("KDFAST_")},
    }
