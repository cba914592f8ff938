"""The one place that skips, and says why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from native import build

from kdfast import backend

ROOT = Path(__file__).resolve().parents[1]

if os.environ.get("CI") and importlib.util.find_spec("hypothesis"):
    # Where a change is judged, tests draw the same examples every time; elsewhere they look for new ones.
    from hypothesis import settings

    settings.register_profile("judged", derandomize=True)
    settings.load_profile("judged")


class Need:
    """What a test cannot do without. Where it is missing the test is skipped, and the reason printed."""

    def that(self, condition: object, reason: str) -> None:
        """`condition` must hold; `reason` says what is missing."""
        if not condition:
            pytest.skip(reason)

    def module(self, name: str) -> None:
        """A Python module."""
        self.that(importlib.util.find_spec(name), f"the Python module {name} is not installed")

    def program(self, name: str) -> str:
        """A program on the PATH; returns where it is."""
        path = shutil.which(name)
        self.that(path, f"the program {name} is not installed")
        return path

    def backend(self, name: str, device: str = "cpu", op: str = "") -> None:
        """A backend that serves `device`, with a kernel for `op`."""
        self.that(device != "cuda" or torch.cuda.is_available(), "there is no GPU")
        reason = backend.reason_against(name, device, op)
        self.that(reason is None, f"backend {name} cannot serve {device} tensors: {reason}")

    def data(self, *parts: str) -> Path:
        """A file or folder of the optional data folder (../shared/data or $KDFAST_DATA)."""
        folders = [Path(os.environ.get("KDFAST_DATA", "")), ROOT.parent / "shared" / "data"]
        found = [folder.joinpath(*parts) for folder in folders if folder.joinpath(*parts).exists()]
        self.that(found, f"the optional data {'/'.join(parts)} is not there")
        return found[0]


@pytest.fixture(scope="session")
def need() -> Need:
    """need.module("scipy"), need.program("auditwheel"), need.backend("triton", "cuda"), ..."""
    return Need()


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=[(name, device) for device in _devices() for name in backend.BACKENDS], ids="-".join)
def place(request, need):
    """Every backend on every device, one after the other: yields the device with the backend in use.

    A test file whose op may lack a kernel somewhere names it: OP = "dkd_loss".
    """
    name, device = request.param
    need.backend(name, device, getattr(request.module, "OP", ""))
    with backend.use(name):
        yield device


@pytest.fixture(params=_devices(), ids="triton-{}".format)
def triton_device(request, need) -> str:
    """Where Triton's kernels run: on a GPU, or in its interpreter (TRITON_INTERPRET=1) on the CPU."""
    need.backend("triton", request.param)
    return request.param


@pytest.fixture(scope="session")
def native_module():
    """The module of tests/native, compiled on demand."""
    try:
        return build.load()
    except build.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def native(native_module, request):
    """The same, its threads and blocks shuffled by the test's own seed (some tests choose an order)."""
    native_module.set_device(order="shuffled", seed=zlib.crc32(request.node.name.encode()) % 1000)
    native_module.reset_counters()
    return native_module
