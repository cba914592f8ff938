"""A Term inside a Distiller: its loss and adapter, registered, and the checks that name both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy

from kdfast.distill.adapters import AutoAdapter, adapter_from_shapes, declared_channels
from kdfast.distill.paths import describe, find_module, split_path
from kdfast.distill.term import Term, paths_of
from kdfast.distill.top_k import TopK

# Torch's elementwise losses broadcast unequal shapes (with a warning at most): here that is an error.
_ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.KLDivLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
)
_ELEMENTWISE_FUNCTIONS = (
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.kl_div,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
)
_MISFIT_ERRORS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)


class BoundTerm(nn.Module):
    """The value of one term, from the two features. Modules among loss and adapter are its submodules."""

    def __init__(self, term: Term, name: str):
        super().__init__()
        self.name = name
        self.student, self.teacher = term.student, term.teacher
        self.weight, self.warmup = float(term.weight), float(term.warmup)
        self.wants_target = term.target
        self.loss = term.loss
        self.elementwise = isinstance(term.loss, _ELEMENTWISE) or any(
            term.loss is f for f in _ELEMENTWISE_FUNCTIONS
        )
        self.adapter = None if isinstance(term.adapter, str) else term.adapter
        # Whether parameters are still to be made: "auto", or a module of LazyLinear, LazyConv2d and the like.
        self.is_open = isinstance(term.adapter, str) or (
            self.adapter is not None and any(map(is_lazy, self.adapter.parameters()))
        )

    def forward(self, student: Any, teacher: Any, target: Any = None) -> torch.Tensor:
        """The loss's value: 0-d, at least float32."""
        adapted = self.adapt(student, teacher)
        if self.elementwise and isinstance(teacher, torch.Tensor):  # some of torch's want one dtype
            dtype = torch.promote_types(adapted.dtype, teacher.dtype)
            adapted, teacher = adapted.to(dtype), teacher.to(dtype)
        arguments = (adapted, *teacher) if isinstance(teacher, TopK) else (adapted, teacher)
        if self.wants_target:
            arguments = (*arguments, target)
        return scalar(self._explained(self.loss, arguments, adapted, teacher), f"term {self.name!r}")

    def scale(self, progress: torch.Tensor) -> torch.Tensor | float:
        """weight x min(1, progress / warmup), on the device: nothing read back, nothing recompiled."""
        return self.weight * (progress / self.warmup).clamp(max=1) if self.warmup else self.weight

    def adapt(self, student: Any, teacher: Any) -> Any:
        """The student's feature as the loss gets it; ValueError where it lacks the shape it must have."""
        if isinstance(self.adapter, AutoAdapter):
            self._need_tensors(student, teacher)
            student = self._explained(self.adapter, (student, teacher.shape), student, teacher)
        elif self.adapter is not None:
            student = self._explained(self.adapter, (student,), student, teacher)
        if self.elementwise:
            self._need_tensors(student, teacher)
        if (self.elementwise or isinstance(self.adapter, AutoAdapter)) and student.shape != teacher.shape:
            raise ValueError(self._misfit(student, teacher))
        return student

    def check_paths(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """ValueError for a path that is not in its model, naming both modules and the nearest names."""
        for role, model, path in (("student", student, self.student), ("teacher", teacher, self.teacher)):
            try:
                for each in paths_of(path) if model is not None else ():
                    find_module(model, each, role)
            except ValueError as error:
                raise ValueError(
                    f"term {self.name!r} compares student module {self.student!r} with teacher module "
                    f"{self.teacher!r}, but the {error}"
                ) from None

    def build(self, student: Any, teacher: Any, model: nn.Module) -> None:
        """adapter="auto" from example features. (A lazy module builds itself when it sees its feature.)"""
        self.is_open = False
        if self.adapter is not None:
            return
        self._need_tensors(student, teacher)
        tapped = find_module(model, split_path(self.student)[0])
        sequence = any(isinstance(layer, nn.Conv1d) for layer in tapped.modules())
        try:
            self.adapter = adapter_from_shapes(
                student.shape, teacher.shape, sequence=sequence, **_like(tapped, model)
            )
        except ValueError as error:
            raise ValueError(f"{self._misfit(student, teacher)} ({error})") from error

    def build_declared(self, student: nn.Module, teacher: nn.Module) -> bool:
        """adapter="auto" from what the two layers declare; False where they do not say enough."""
        (student_path, items), (teacher_path, other) = split_path(self.student), split_path(self.teacher)
        if items or other or self.adapter is not None:
            return False
        tapped = find_module(student, student_path)
        ours, theirs = declared_channels(tapped), declared_channels(find_module(teacher, teacher_path))
        if ours is None or theirs is None or ours[1] != theirs[1]:
            return False
        self.adapter = AutoAdapter(ours[0], theirs[0], ours[1], **_like(tapped, student))
        self.is_open = False
        return True

    def extra_repr(self) -> str:
        return f"{self.name!r}, student={self.student!r}, teacher={self.teacher!r}, weight={self.weight}"

    def _explained(self, call: Callable[..., Any], arguments: tuple, student: Any, teacher: Any) -> Any:
        """call(*arguments); an error on features that do not fit names both modules and both shapes."""
        if torch.compiler.is_compiling():
            return call(*arguments)
        try:
            return call(*arguments)
        except _MISFIT_ERRORS as error:
            if isinstance(student, torch.Tensor) and isinstance(teacher, torch.Tensor):
                if student.shape != teacher.shape:
                    raise ValueError(f"{self._misfit(student, teacher)} ({error})") from error
            elif not isinstance(teacher, TopK):
                raise TypeError(f"{self._select_hint(student, teacher)} ({error})") from error
            raise

    def _need_tensors(self, student: Any, teacher: Any) -> None:
        if not (isinstance(student, torch.Tensor) and isinstance(teacher, torch.Tensor)):
            raise TypeError(f"{self._select_hint(student, teacher)} (needed: tensors)")

    def _misfit(self, student: torch.Tensor, teacher: torch.Tensor) -> str:
        after = "" if self.adapter is None else f" after {type(self.adapter).__name__}"
        remedy = 'adapter="auto" projects one to the other'
        if self.adapter is not None or self.is_open:
            remedy = "pass an adapter module that takes one to the other"
        return (
            f"term {self.name!r}: student module {self.student!r} gave {list(student.shape)}{after} and "
            f"teacher module {self.teacher!r} gave {list(teacher.shape)}, which do not fit; {remedy}"
        )

    def _select_hint(self, student: Any, teacher: Any) -> str:
        if isinstance(self.student, tuple) or isinstance(self.teacher, tuple):
            return (
                f"term {self.name!r}: student modules {self.student!r} gave {describe(student)} and teacher "
                f"modules {self.teacher!r} gave {describe(teacher)}, which its loss does not take"
            )
        return (
            f"term {self.name!r}: student module {self.student!r} gave {describe(student)} and teacher "
            f"module {self.teacher!r} gave {describe(teacher)}; take an item by its path, as in "
            f"{self.student + '[0]'!r}"
        )


def scalar(value: Any, owner: str) -> torch.Tensor:
    """A loss's value in at least float32; ValueError unless it is a 0-d tensor."""
    if not isinstance(value, torch.Tensor) or value.dim():
        raise ValueError(f"{owner}: the loss must return a 0-d tensor, got {describe(value)}")
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _like(*modules: nn.Module) -> dict[str, Any]:
    """Device and dtype of the first floating-point parameter of the first module that has one."""
    for module in modules:
        for parameter in module.parameters():
            if parameter.is_floating_point():
                return {"device": parameter.device, "dtype": parameter.dtype}
    return {}
