"""The autograd.Function that kdfast's ops derive from: the same, with less work a call.

Where a function has setup_context, torch binds its arguments through inspect at every call, 25 us; ours are
all positional and complete, so binding them to themselves is enough. And where `backward` has first
derivatives only, the inputs' graphs are remembered, so that asking for a second one is an error.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

from kdfast.ops._once import remember_inputs


class _Bound:
    __slots__ = ("args", "kwargs")

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args, self.kwargs = args, {}

    def apply_defaults(self) -> None:
        """There are none."""


class _AsGiven(inspect.Signature):
    def bind(self, *args: Any) -> _Bound:  # type: ignore[override]
        return _Bound(args)


def _remembering(setup_context: Callable[..., None]) -> staticmethod:
    @functools.wraps(setup_context)
    def remembering(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs, output)
        remember_inputs(ctx, inputs)

    return staticmethod(remembering)


def _remembering_forward(forward: Callable[..., Any]) -> staticmethod:
    @functools.wraps(forward)
    def remembering(ctx: Any, *inputs: Any) -> Any:
        remember_inputs(ctx, inputs)
        return forward(ctx, *inputs)

    return staticmethod(remembering)


class Function(torch.autograd.Function):
    """Called as apply(every argument of forward, by position)."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        forward = cls.__dict__.get("forward")
        if isinstance(forward, staticmethod):
            parameters = inspect.signature(forward.__func__).parameters.values()
            forward.__func__.__signature__ = _AsGiven(list(parameters))
        backward = getattr(cls.__dict__.get("backward"), "__func__", None)
        if not getattr(backward, "first_derivatives_only", False):
            return
        if "setup_context" in cls.__dict__:
            cls.setup_context = _remembering(cls.setup_context)
        else:
            cls.forward = _remembering_forward(cls.forward)
