"""`python -m kdfast --check`: does every op, on every backend that runs here, agree with its definition?"""

from __future__ import annotations

import importlib
import pkgutil

import torch

import kdfast.ops
from kdfast import backend, functional

_TOLERANCE = 1e-4


def _rooms() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(kdfast.ops.__path__)]
    return [name for name in names if name in functional.__all__]


def _arguments(op: str, device: str) -> tuple[list, dict] | None:
    """Small arguments of an op: those its own room gives (`example`), on `device`."""
    room = importlib.import_module(f"kdfast.ops.{op}")
    generator = torch.Generator().manual_seed(0)
    arguments, keywords = room.example(generator) if hasattr(room, "example") else _logits(generator)
    move = lambda x: x.to(device) if isinstance(x, torch.Tensor) else x  # noqa: E731
    return [move(x) for x in arguments], {name: move(x) for name, x in keywords.items()}


def _logits(generator: torch.Generator) -> tuple[list, dict]:
    return [torch.randn(5, 33, generator=generator) for _ in range(2)], {}


def _numbers(function, arguments: list, keywords: dict) -> list[torch.Tensor]:
    """The value and the gradient with respect to the first argument, in float64."""
    first = arguments[0].detach().requires_grad_()
    out = function(first, *arguments[1:], **keywords)
    outs = [x for x in (out if isinstance(out, tuple) else (out,)) if x.requires_grad]
    sum(x.double().sum() for x in outs).backward()
    return [x.detach().double() for x in (*outs, first.grad)]


def _verdict(op: str, device: str, name: str) -> str:
    room = importlib.import_module(f"kdfast.ops.{op}")
    arguments, keywords = _arguments(op, device)
    try:
        with backend.use(name):
            ours = _numbers(getattr(room, op), arguments, keywords)
        truth = _numbers(getattr(room, f"{op}_reference"), arguments, keywords)
    except Exception as error:  # a report is wanted, not a traceback
        return f"failed: {type(error).__name__}: {error}"
    worst = max(float((a - b).norm() / (b.norm() + 1e-30)) for a, b in zip(ours, truth, strict=True))
    return "right" if worst < _TOLERANCE else f"wrong: relative error {worst:.1e}"


def self_check() -> list[dict[str, str]]:
    """One {op, backend, device, verdict} for every op and every backend that can run; verdict "right" or what
    is wrong."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return [
        {"op": op, "backend": name, "device": device, "verdict": _verdict(op, device, name)}
        for op in _rooms()
        for device in devices
        for name in backend.BACKENDS
        if backend.reason_against(name, device) is None
    ]
