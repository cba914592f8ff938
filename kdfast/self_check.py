"""`python -m kdfast --check`: does every op, on every backend that runs here, agree with its definition in
float64?
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kdfast import backend, functional

_TOLERANCE = 1e-4


def _example(op: str) -> tuple[list, dict]:
    """Small arguments of an op: those its own room gives (`example`), or two sets of logits."""
    room = importlib.import_module(f"kdfast.ops.{op}")
    generator = torch.Generator().manual_seed(0)
    make = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
    return room.example(make) if hasattr(room, "example") else ([make(5, 33), make(5, 33)], {})


def _mapped(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Every tensor in lists and dicts changed."""
    if isinstance(x, Tensor):
        return change(x)
    if isinstance(x, dict):
        return {key: _mapped(change, value) for key, value in x.items()}
    return [_mapped(change, value) for value in x] if isinstance(x, list) else x


def _numbers(op: str, backend_name: str, arguments: list, keywords: dict) -> list[Tensor]:
    """The values and, of an op that has one, the gradient with respect to the first argument, in float64."""
    first = arguments[0]
    if isinstance(first, Tensor):
        first = first.detach().requires_grad_()
    with backend.use(backend_name):
        out = getattr(functional, op)(first, *arguments[1:], **keywords)
        outs = list(out) if isinstance(out, tuple) else [out]
        total = [x.double().sum() for x in outs if x.requires_grad]
        if total:
            sum(total).backward()
            outs.append(first.grad)
    return [x.detach().double().cpu() for x in outs]


def _verdict(op: str, device: str, name: str) -> str | None:
    """None: the backend has no kernel for this op."""
    arguments, keywords = _example(op)
    move = lambda x: x.to(device)  # noqa: E731
    exact = lambda x: x.double() if x.is_floating_point() else x  # noqa: E731
    try:
        ours = _numbers(op, name, _mapped(move, arguments), _mapped(move, keywords))
        truth = _numbers(op, "reference", _mapped(exact, arguments), _mapped(exact, keywords))
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
        for op in functional.__all__
        for name, device in places
        if backend.reason_against(name, device) is None
        and (verdict := _verdict(op, device, name)) is not None
    ]
