"""Term: one comparison of a student module with a teacher module."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import torch
from torch import nn

Path = str | tuple[str, ...]


def paths_of(path: Any) -> tuple[Any, ...]:
    """The path, or the paths of a tuple, as a tuple."""
    return path if isinstance(path, tuple) else (path,)


def pick(features: Mapping[str, Any], path: Path) -> Any:
    """The feature of a path, the features of a tuple of paths as a tuple."""
    return tuple(features[each] for each in path) if isinstance(path, tuple) else features[path]


@dataclass(frozen=True, eq=False)
class Term:
    """`weight * loss(student feature, teacher feature)`, one term of a Distiller's loss.

    loss: called as loss(s, t), or loss(s, t, target) with `target=True`; returns a 0-d tensor. A function, or
        an nn.Module, whose parameters then train with the student.
    student, teacher: module paths, "" for the model's output; `"neck.0[1]"` or `"[logits]"` takes an item of
        what the module returned (see FeatureTap). The loss gets exactly what stands there: a tensor, or a
        tuple, dict or list. A tuple of paths gives the loss (or the adapter) a tuple of features, for losses
        that join several, as ReviewKD's does.
    name: the key in `out.terms`; by default the loss's class (or function) name. A repeated name gets _2, _3
        and so on.
    weight: any finite number.
    adapter: a module applied to the student's feature before the loss; "auto" builds the projection (and the
        resizing of maps) that takes it to the teacher's shape, and nothing where the shapes agree already.
        "auto" and modules of lazy layers get their parameters when the Distiller is built.
    warmup: in units of `Distiller.set_progress(x)`; the weight is multiplied by min(1, x / warmup). 0: no
        warm-up.

    Errors: TypeError (loss not callable or a class instead of an instance, wrong types), ValueError (weight
    not finite, warmup negative, adapter string other than "auto", empty name).
    """

    loss: Callable[..., torch.Tensor]
    student: Path = ""
    teacher: Path = ""
    _: KW_ONLY
    name: str | None = None
    weight: float = 1.0
    adapter: None | Literal["auto"] | nn.Module = None
    target: bool = False
    warmup: float = 0

    def __post_init__(self) -> None:
        if inspect.isclass(self.loss) or not callable(self.loss):
            given = f"the class {self.loss.__name__}" if inspect.isclass(self.loss) else repr(self.loss)
            raise TypeError(f"loss must be a function or a loss instance such as MSELoss(), got {given}")
        for argument in ("student", "teacher"):
            if not all(isinstance(path, str) for path in paths_of(getattr(self, argument))):
                raise TypeError(
                    f"{argument} must be a module path (str) or a tuple of them, "
                    f"got {getattr(self, argument)!r}"
                )
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise ValueError(f"name must be a non-empty string or None, got {self.name!r}")
        self._check_number("weight")
        self._check_number("warmup", minimum=0)
        several = isinstance(self.student, tuple) or isinstance(self.teacher, tuple)
        if self.adapter == "auto" and several:
            raise ValueError('adapter="auto" is for one path on each side; pass an nn.Module for several')
        if isinstance(self.adapter, str) and self.adapter != "auto":
            raise ValueError(f'adapter must be None, "auto" or an nn.Module, got {self.adapter!r}')
        if not (self.adapter is None or isinstance(self.adapter, (str, nn.Module))):
            raise TypeError(f'adapter must be None, "auto" or an nn.Module, got {self.adapter!r}')

    def _check_number(self, argument: str, minimum: float = -math.inf) -> None:
        value = getattr(self, argument)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{argument} must be a number, got {value!r}")
        if not (math.isfinite(value) and value >= minimum):
            least = "" if minimum == -math.inf else f" of at least {minimum}"
            raise ValueError(f"{argument} must be a finite number{least}, got {value!r}")

    @property
    def default_name(self) -> str:
        """The class name of a loss module, the name of a function."""
        if isinstance(self.loss, nn.Module):
            return type(self.loss).__name__
        function = self.loss
        while isinstance(function, functools.partial):
            function = function.func
        name: Any = getattr(function, "__name__", type(function).__name__)
        return "loss" if name == "<lambda>" else name


def unique_names(terms: list[Term]) -> list[str]:
    """One name a term, in order: the given or default name, with _2, _3, ... where it is taken."""
    names: list[str] = []
    for term in terms:
        base = name = term.name or term.default_name
        count = 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names
