"""Which backend serves a tensor, and what is said where none can."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdfast import backend
from kdfast.ops import _fake


def test_a_slip_in_the_environment_is_a_sentence(monkeypatch):
    monkeypatch.setenv("KDFAST_BACKEND", "fast")
    monkeypatch.setattr(backend, "_asked", "fast")
    with pytest.raises(ValueError, match="KDFAST_BACKEND must be one of native, triton"):
        backend.of(torch.zeros(2))


def test_a_library_older_than_the_python_files_is_named_once(need):
    need.backend("native")
    _fake._say_that_the_library_is_old.cache_clear()
    with pytest.warns(UserWarning, match="older than its Python files") as said:
        for name in ("op_of_tomorrow", "op_of_the_day_after"):
            _fake.register_fake(name, lambda x: x)
    assert len(said) == 1


def test_an_explicit_choice_never_falls_back(need):
    with backend.use("triton"):
        reason = backend.reason_against("triton", "cpu")
        need.that(reason, "Triton's interpreter serves the CPU in this run")
        with pytest.raises(RuntimeError, match="backend 'triton' was asked for"):
            backend.of(torch.zeros(2), "kl_div")
    assert backend.of(torch.zeros(2), "no_such_op") == "reference"
    with pytest.raises(ValueError, match="backend must be one of"):
        backend.use("fast")


def test_importing_does_not_wake_the_gpu():
    """A process that has woken it cannot be forked for data loaders that use it."""
    code = """if True:
        import torch
        def wake(*_):
            raise SystemExit("kdfast wakes the GPU when it is imported")
        torch.cuda.device_count, torch.cuda._lazy_init = lambda: 1, wake
        import kdfast
        assert kdfast.__version__
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_folder_cannot_be_imported_by_itself(need):
    """OpenAI's Triton has a package of this name: ours is kdfast.triton_kernels, or an error."""
    need.module("triton")
    path = Path(__file__).parents[1] / "triton_kernels" / "__init__.py"
    spec = importlib.util.spec_from_file_location("triton_kernels", path)
    with pytest.raises(ImportError, match=r"kdfast\.triton_kernels"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
