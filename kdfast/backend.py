"""Which kernels serve a tensor: the only place in Python that chooses.

A backend is a namespace of ops with the same names: `native` (torch.ops.kdfast: C++ on the CPU, CUDA on
NVIDIA GPUs), `triton` (torch.ops.kdfast_triton) and `reference` (each op's definition in plain PyTorch).
Facts of the process are read once, when kdfast is imported, so that choosing costs nothing and torch.compile
can trace it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

BACKENDS = ("native", "triton", "reference")

# Ops for which Triton was measured to be faster than CUDA C++ (see bench/results): none has a record yet.
TRITON_FIRST: frozenset[str] = frozenset()


def _load_native() -> str | None:
    try:
        importlib.import_module("kdfast._C")
    except ImportError as error:
        return f"its library did not load ({error}); `make build` or `pip install` compiles it"
    return None


def _load_cuda() -> str | None:
    """Loads the CUDA kernels; the reason if they cannot serve this process."""
    try:
        built = importlib.import_module("kdfast._build")
    except ImportError:
        return "the native library was not built"
    if not built.CUDA:
        return f"the CUDA kernels were left out: {built.NO_CUDA_REASON}"
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if torch.version.cuda.split(".")[0] != built.CUDA.split(".")[0]:
        return f"the CUDA kernels were built with CUDA {built.CUDA}, this torch with {torch.version.cuda}"
    library = Path(__file__).with_name("libkdfast_cuda.so")
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"the CUDA kernels did not load: {error}"
    return None


def _load_triton() -> str | None:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted and not torch.cuda.is_available():
        return (
            "there is no GPU (TRITON_INTERPRET=1, set before Python starts, runs Triton kernels on the CPU)"
        )
    try:
        importlib.import_module("kdfast.triton_kernels")
    except ImportError as error:
        return f"Triton did not import: {error}"
    return None


_REASON_NATIVE = _load_native()
_REASON_CUDA = _REASON_NATIVE or _load_cuda()
_REASON_TRITON = _load_triton()
_TRITON_ON_CPU = os.environ.get("TRITON_INTERPRET") == "1"


def _registered(namespace: str, key: str) -> frozenset[str]:
    """The ops of a namespace that have a kernel for a dispatch key (CPU, CUDA)."""
    prefix = f"{namespace}::"
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))


# Which ops have kernels: a loss may come with its definition alone; "native" must not claim to serve it then.
_NAMESPACES = {"native": "kdfast", "triton": "kdfast_triton"}
_KERNELS = {
    (name, device): _registered(namespace, device.upper())
    for name, namespace in _NAMESPACES.items()
    for device in ("cpu", "cuda")
}


def reason_against(name: str, x: Tensor | torch.device | str, op: str = "") -> str | None:
    """Why backend `name` cannot serve tensor (or device) `x`, or op `op` on it; None if it can.

    Raises ValueError for an unknown backend.
    """
    _check_name(name)
    device = x.device.type if isinstance(x, Tensor) else torch.device(x).type
    reason = _reason_against_device(name, device)
    if reason is None and name != "reference" and op and op not in _KERNELS[name, device]:
        return f"{op} has no {name} kernel for {device} tensors"
    return reason


def _reason_against_device(name: str, device: str) -> str | None:
    if name == "reference":
        return None
    if name == "native":
        if device == "cpu":
            return _REASON_NATIVE
        return _REASON_CUDA if device == "cuda" else f"it has no kernels for {device} tensors"
    if device == "cpu" and not _TRITON_ON_CPU:
        return "Triton serves CPU tensors only if TRITON_INTERPRET=1 is set before Python starts"
    return _REASON_TRITON


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")


# Checked where it is used, so that a slip in the environment is a sentence and not a failing import.
_asked: str | None = os.environ.get("KDFAST_BACKEND") or None
if _asked == "auto":
    _asked = None


def check_environment() -> None:
    """Raises ValueError where KDFAST_BACKEND names no backend."""
    name = os.environ.get("KDFAST_BACKEND") or "auto"
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"KDFAST_BACKEND must be one of {', '.join(BACKENDS)}, or unset, got {name!r}")


def _choose(device: str, op: str) -> str:
    triton_first = op in TRITON_FIRST and device == "cuda"
    order = ("triton", "native", "reference") if triton_first else BACKENDS
    return next(name for name in order if reason_against(name, device, op) is None)


_OPS = ("", *sorted(frozenset().union(*_KERNELS.values())))
_CHOICE = {(device, op): _choose(device, op) for device in ("cpu", "cuda") for op in _OPS}


def of(x: Tensor, op: str = "") -> str:
    """The backend that serves op `op` on tensor `x`: the one asked for, else the first that has a kernel for
    it.

    An op without any kernel for the device is served by its definition ("reference"). Raises RuntimeError if
    the backend that was asked for cannot run it: an explicit choice never falls back.
    """
    if _asked is not None:
        if _asked not in BACKENDS:
            check_environment()
        reason = reason_against(_asked, x, op)
        if reason is not None:
            raise RuntimeError(
                f"backend {_asked!r} was asked for, but cannot serve {x.device.type} tensors: {reason}"
            )
        return _asked
    return _CHOICE.get((x.device.type, op), "reference")


def ops(name: str) -> Callable:
    """The namespace of ops of backend `native` or `triton`."""
    return torch.ops.kdfast if name == "native" else torch.ops.kdfast_triton


class use:  # noqa: N801 - reads as a verb, as torch.no_grad does
    """Chooses a backend for every op from here on, or within a `with` block.

        kdfast.use("triton")
        with kdfast.use("reference"):
            loss = KF.kl_div(student, teacher)

    Args:
        name: "native", "triton" or "reference"; "auto" gives the choice back to kdfast.

    Raises ValueError for an unknown name. That a backend cannot run is said (RuntimeError) when an op is
    called, since it depends on the tensors' device.
    """

    def __init__(self, name: str) -> None:
        global _asked
        if name != "auto":
            _check_name(name)
        self._before = _asked
        _asked = None if name == "auto" else name

    def __enter__(self) -> use:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _asked
        _asked = self._before
