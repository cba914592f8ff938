"""FeatureTap: what submodules return, beside what the model returns."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn

from kdfast.distill.recorder import Recorder, check_module


class FeatureTap(nn.Module):
    """A model that also returns what some of its submodules return: `out, feats = tap(*args, **kwargs)`.

    model: any module; its parameters are this module's, under `model.`. Not one compiled already
        (RuntimeError: hooks added after compilation are ignored); compile the tap instead.
    paths: {name: module path}; "" is the model's own output. `"neck.0[1]"` is item 1 of what `neck.0` returns
        and `"[logits]"` the entry (or attribute) `logits` of the model's output.

    feats[name] is what the module returned, unchanged: a tensor, a tuple, a dict. A module called several
    times in one forward gives the list of its outputs, in call order (`"head[0]"` is its first call). A
    module that was not called is a RuntimeError. Features are safe from later in-place operations. Gradients
    flow through them.

    Activation checkpointing: `use_reentrant=False`, and under torch.compile also
    `torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True` (the recomputation must not
    note features again, and does not).

    Errors: TypeError (not a module, not a mapping of strings), ValueError (no such module or item; close
    names listed). `remove()` takes the hooks away; so does leaving a `with tap:` block.
    """

    def __init__(self, model: nn.Module, paths: Mapping[str, str]):
        super().__init__()
        check_module(model, "model")
        if not isinstance(paths, Mapping) or not all(isinstance(p, str) for p in (*paths, *paths.values())):
            raise TypeError(f"paths must be a mapping from name to module path, got {paths!r}")
        self.model = model
        self.paths = dict(paths)
        self._recorder = Recorder(model, list(self.paths.values()))
        weakref.finalize(self, self._recorder.detach).atexit = False  # the hooks go with the tap

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        output, features = self._recorder.run(self.model, args, kwargs)
        return output, {name: features[path] for name, path in self.paths.items()}

    def attach(self) -> None:
        """Put the hooks back after `remove()`."""
        self._recorder.attach(self.model)

    def remove(self) -> None:
        """Remove the hooks; the model is as it was before."""
        self._recorder.detach()

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={path!r}" for name, path in self.paths.items())
