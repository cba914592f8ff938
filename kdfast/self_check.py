"""`python -m kdfast --check`: does every op, on every backend that runs here, agree with its definition?"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch

import kdfast.ops
from kdfast import backend, functional

_TOLERANCE = 1e-4


def _rooms() -> list[str]:
    """Ops whose definition takes the op's own arguments: box_weights' takes its boxes packed, and is a part
    of box_weighted_mse."""
    names = [module.name for module in pkgutil.iter_modules(kdfast.ops.__path__)]
    return [name for name in names if name in functional.__all__ and name != "box_weights"]


def arguments(op: str, device: str = "cpu") -> tuple[list, dict]:
    """Small arguments of an op on `device`: its own room's (`example`), else two sets of logits."""
    room = importlib.import_module(f"kdfast.ops.{op}")
    generator = torch.Generator().manual_seed(0)
    positional, keywords = room.example(generator) if hasattr(room, "example") else _logits(generator)
    return _moved(positional, device), {name: _moved(x, device) for name, x in keywords.items()}


def _moved(x: Any, device: str) -> Any:
    """A tensor, or the tensors of a list, on `device`."""
    if isinstance(x, list):
        return [_moved(each, device) for each in x]
    return x.to(device) if isinstance(x, torch.Tensor) else x


def _logits(generator: torch.Generator) -> tuple[list, dict]:
    return [torch.randn(5, 33, generator=generator) for _ in range(2)], {}


def _numbers(function, positional: list, keywords: dict) -> list[torch.Tensor]:
    """The value and the gradient with respect to the first argument, in float64."""
    first = positional[0].detach().requires_grad_()
    out = function(first, *positional[1:], **keywords)
    outs = out if isinstance(out, tuple) else (out,)
    wanted = [x.double().sum() for x in outs if x.requires_grad]
    if wanted:
        sum(wanted).backward()
    return [x.detach().double() for x in (*outs, first.grad) if x is not None]


def _verdict(op: str, device: str, name: str) -> str | None:
    """None: the backend has no kernel for this op."""
    room = importlib.import_module(f"kdfast.ops.{op}")
    positional, keywords = arguments(op, device)
    try:
        with backend.use(name):
            ours = _numbers(getattr(room, op), positional, keywords)
        truth = _numbers(getattr(room, f"{op}_reference"), positional, keywords)
    except Exception as error:  # a report is wanted, not a traceback
        if f"has no {name} kernel" in str(error):  # of the op, or of one that it is built on
            return None
        return f"failed: {type(error).__name__}: {error}"
    worst = max(float((a - b).norm() / (b.norm() + 1e-30)) for a, b in zip(ours, truth, strict=True))
    return "right" if worst < _TOLERANCE else f"wrong: relative error {worst:.1e}"


def self_check() -> list[dict[str, str]]:
    """One {op, backend, device, verdict} for every op and every backend that can run; verdict "right" or what
    is wrong."""
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    places = [(name, device) for device in devices for name in backend.BACKENDS]
    return [
        {"op": op, "backend": name, "device": device, "verdict": verdict}
        for op in _rooms()
        for name, device in places
        if backend.reason_against(name, device) is None
        and (verdict := _verdict(op, device, name)) is not None
    ]
