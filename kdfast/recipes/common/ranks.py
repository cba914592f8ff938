"""Which of several processes this one is, before and after torch.distributed is up.

torchrun sets RANK; Lightning's own launcher starts its children with LOCAL_RANK and NODE_RANK.
"""

from __future__ import annotations

import os
import sys


def rank() -> int:
    """Number of this process over all nodes; 0 where there is only one."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    local, node = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("NODE_RANK", 0))
    return local if node == 0 else local + node * max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def is_main() -> bool:
    """True in the one process that writes files and speaks."""
    return rank() == 0


def under_torchrun() -> bool:
    """True where a launcher outside started several processes, so that none is the parent of the others."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def layout(devices: int, nodes: int) -> tuple[int, int]:
    """Processes on each node and nodes: what torchrun started, or else what was asked for."""
    if not under_torchrun():
        return devices, nodes
    world = int(os.environ["WORLD_SIZE"])
    each = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return each, world // each


def say(line: str) -> None:
    """Print one line from the main process. A reader that has gone (`| head`) does not end the run."""
    if not is_main():
        return
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
