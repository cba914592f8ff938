"""Runs a function of a test file on two gloo ranks of this machine, each a process of its own."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CODE = """
import importlib, os, sys
import torch.distributed as dist
module, function, store, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
getattr(importlib.import_module(module), function)(int(rank))
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads now and then abort a process that goes through its normal end
"""


def on_two_ranks(function: Callable[[int], None], folder: Path) -> None:
    """Calls function(rank) on both ranks; fails with the output of the first that fails, or after three
    minutes."""
    here = str(Path(inspect.getfile(function)).parent)
    path = os.pathsep.join([here, *filter(None, sys.path)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": path}
    words = [sys.executable, "-c", CODE, function.__module__.rpartition(".")[2], function.__name__]
    ranks = [
        subprocess.Popen(
            [*words, str(folder / "store"), str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            text, _ = rank.communicate(timeout=180)
            assert rank.returncode == 0, text[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
