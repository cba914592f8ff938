"""Options that every recipe has. A recipe's `Options` is a keyword-only dataclass on top of `RunOptions`.

A field is a flag (`batch_size` -> `--batch-size`, a bool also `--no-...`), the string under it is the flag's
help, and its default is the paper's. `__post_init__` checks values; a ValueError there is the one line that
the person reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal


def runtime(default: Any) -> Any:
    """A field that changes how a run looks but not what it computes, so that `--resume` may change it."""
    return field(default=default, metadata={"runtime": True})


def require_positive(**values: float) -> None:
    """Raise ValueError for the first value that is not above zero and finite, naming its flag."""
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"option --{name.replace('_', '-')}: a number above 0 is needed, got {value}")


@dataclass(kw_only=True)
class RunOptions:
    """Where and how a run is computed."""

    seed: int = 0
    """seed of every random choice"""

    seeds: int = 1
    """how many students to train, with seeds SEED, SEED + 1, ...; the report gives mean and spread"""

    baseline: bool = True
    """also train the student alone, to compare"""

    skip_bad: bool = False
    """leave out samples that cannot be read, and count them, instead of stopping"""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to compute"""

    devices: int = 1
    """processes on this machine, one for each GPU; torchrun decides for itself"""

    nodes: int = 1
    """machines; started on each with its NODE_RANK, or by torchrun"""

    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """arithmetic of the models; the losses compute in float32 whatever it is"""

    threads: int = 0
    """CPU threads of each process, 0 for torch's choice; the last bits of a result may depend on it"""

    workers: int = 0
    """processes that load data, for each device"""

    progress: Literal["auto", "bar", "plain", "none"] = runtime("auto")
    """bar on a terminal and plain lines elsewhere (auto), or one of them, or nothing"""

    def __post_init__(self) -> None:
        require_positive(seeds=self.seeds, devices=self.devices, nodes=self.nodes)
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value < 0:
                raise ValueError(f"option --{name}: 0 or more is needed, got {value}")
        if self.device == "cuda" and not _cuda():
            raise ValueError("option --device: cuda was given, but torch sees no GPU; use --device cpu")
        if self.precision == "16-mixed" and self.torch_device() == "cpu":
            raise ValueError("option --precision: 16-mixed needs a GPU; bf16-mixed runs on CPUs too")

    def torch_device(self) -> str:
        """Where a single process computes: "cpu" or "cuda"."""
        return "cuda" if self.device != "cpu" and _cuda() else "cpu"

    def seed_list(self) -> list[int]:
        """The seeds of the students."""
        return [self.seed + i for i in range(self.seeds)]


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
