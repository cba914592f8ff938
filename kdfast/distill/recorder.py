"""Recorder: notes what submodules return while a model runs.

A forward hook on each tapped module notes its output while a tapped forward runs; at any other time (the
model called alone, the recomputation of activation checkpointing, a deep copy of the model) the hooks do
nothing and hold nothing.

In-place writes. `ReLU(inplace=True)` after a tapped module, or a ResNet's `out += identity`, would overwrite
the feature. Each tensor has a version counter, so the first forward notes copies and looks which features
were written to; only those are copied from then on. A compiled graph cannot look, and always copies: there
the compiler fuses the copy with what reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from kdfast.distill.paths import find_module, select, split_path


class _Hook:
    """The forward hook of one module. Not a closure, so that copies of a model have their own recorder."""

    def __init__(self, recorder: Recorder, path: str):
        self.recorder = recorder
        self.path = path

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.recorder.note(self.path, output)


class Recorder:
    """Hooks on submodules of a model, and the forward that listens to them. Does not own the model.

    model: the module whose submodules are tapped. paths: module paths, with items or without. role:
    "student", "teacher" or "model", for messages. differentiable: refuse features noted where gradients
    cannot reach them.
    """

    def __init__(
        self, model: nn.Module, paths: list[str], *, role: str = "model", differentiable: bool = False
    ):
        modules = dict(model.named_modules(remove_duplicate=False))
        self.items = {path: (path, ()) if path in modules else split_path(path) for path in paths}
        self.role, self.differentiable = role, differentiable
        self.attached = False
        self._handles: list[Any] = []
        # module path -> whether its feature is written to later; absent: not known yet
        self._overwritten: dict[str, bool] = {}
        # module path -> [(original, noted, versions), one a call]; None: not listening
        self._calls: dict[str, list] | None = None
        self._grad = False  # whether the tapped forward began with gradients
        self.attach(model)

    def attach(self, model: nn.Module) -> None:
        """Install the hooks (again). ValueError for a missing path, RuntimeError for a compiled module."""
        if self.attached:
            return
        refuse_compiled(model, self.role)
        found = {path: find_module(model, path, self.role) for path, _ in self.items.values()}
        for path in found:
            steps = path.split(".")
            for end in range(1, len(steps) + 1):
                refuse_compiled(model.get_submodule(".".join(steps[:end])), self.role)
        self._handles = [m.register_forward_hook(_Hook(self, p)) for p, m in found.items() if p]
        self.attached = True

    def detach(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.attached = False

    def run(
        self, call: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """(output, {path: feature}) of `call(*args, **kwargs)`, which runs the model."""
        if not self.attached:
            raise RuntimeError(
                f"the taps of the {self.role} were removed: call attach() before the next forward"
            )
        calls: dict[str, list] = {}
        self._calls, self._grad = calls, torch.is_grad_enabled()
        try:
            output = call(*args, **kwargs)
            self.note("", output)
        finally:
            self._calls = None
        if not torch.compiler.is_compiling():
            self._check_overwritten(calls)
        return output, {path: self._feature(path, calls) for path in self.items}

    def forget(self) -> None:
        """Forget which features were overwritten (an example forward is no guide for training)."""
        self._overwritten = {}

    def note(self, path: str, output: Any) -> None:
        """Called by the hooks: keep the output if a tapped forward is running."""
        if self._calls is None:
            return
        if self.differentiable and self._grad and not torch.is_grad_enabled():
            raise RuntimeError(
                f"{self.role} module {path!r} ran without gradients inside a forward with gradients: use "
                "torch.utils.checkpoint(use_reentrant=False), or tap a module outside the no_grad block"
            )
        if torch.compiler.is_compiling():
            entry = (None, output if path == "" else tree_map_only(torch.Tensor, torch.clone, output), None)
        else:
            copy = self._overwritten.get(path, True) or torch.is_inference_mode_enabled()
            keep = torch.clone if copy else _alias
            noted = output if path == "" else tree_map_only(torch.Tensor, keep, output)
            entry = (output, noted, _versions(output))
        self._calls.setdefault(path, []).append(entry)

    def _check_overwritten(self, calls: dict[str, list]) -> None:
        for path, entries in calls.items():
            # What a compiled part of the forward noted is a copy already, and tells nothing.
            entries = [entry for entry in entries if entry[2] is not None]
            if not entries:
                continue
            written = any(_versions(original) != versions for original, _, versions in entries)
            known = self._overwritten.get(path)
            self._overwritten[path] = written or bool(known)
            if written and known is False:
                raise RuntimeError(
                    f"the output of {self.role} module {path!r} was overwritten in place after it ran, as it "
                    "was not in earlier calls; tap the module that follows, or set inplace=False there (the "
                    "next call copies it)"
                )

    def _feature(self, path: str, calls: dict[str, list]) -> Any:
        module, items = self.items[path]
        noted = [entry[1] for entry in calls.get(module, ())]
        if not noted:
            raise RuntimeError(
                f"{self.role} module {module!r} was not called in this forward, so it has no feature"
            )
        return select(noted[0] if len(noted) == 1 else noted, items, path)


def check_module(module: Any, argument: str) -> None:
    """TypeError unless `module` is an nn.Module that may be tapped."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"{argument} must be an nn.Module, got {type(module).__name__}")
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TypeError(
            f"{argument} must be the bare module, got {type(module).__name__}; wrap the outermost module"
        )


def refuse_compiled(module: nn.Module, role: str) -> None:
    """RuntimeError for a compiled module: hooks added inside it now would be ignored without a word."""
    if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
        name = type(module._modules.get("_orig_mod", module)).__name__
        raise RuntimeError(
            f"{role} {name} is compiled already, so hooks in it would be ignored; pass the plain module "
            "and compile what wraps it (torch.compile(distiller) compiles both models)"
        )


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory behind a node of its own in the graph.

    A copy has one, so that gradients of its consumers are added up before they join the others. Without a
    node here the first forward of a Distiller (copies) and its later ones would add them in another order,
    and a resumed run would differ from a straight one in the last bits.
    """
    return tensor.view_as(tensor) if tensor.requires_grad and tensor.layout is torch.strided else tensor


def _versions(output: Any) -> list[int]:
    """The version counters of an output's tensors; inference tensors have none and cannot be checked."""
    return [
        -1 if t.is_inference() else t._version for t in tree_leaves(output) if isinstance(t, torch.Tensor)
    ]
