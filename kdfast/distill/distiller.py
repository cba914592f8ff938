"""Distiller: student, teacher and the terms between them as one module.

    loss = task_loss(output, target) + sum_i w_i * min(1, progress / warmup_i) * loss_i(adapter_i(s_i), t_i)

Everything that trains (student, adapters, parameters of losses) is a parameter of the one module, so DDP,
FSDP2 and optimizers see it and one forward produces all gradients. The teacher is Frozen: used, moved, never
saved or trained.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from kdfast.distill.bound_term import BoundTerm, scalar
from kdfast.distill.build import build_adapters, quiet
from kdfast.distill.frozen import Frozen
from kdfast.distill.recorder import Recorder, check_module, refuse_compiled
from kdfast.distill.term import Path, Term, paths_of, pick, unique_names


class DistillerOutput(NamedTuple):
    """What a Distiller returns.

    loss: 0-d tensor, float32 (float64 where a term is). terms: {name: value of the term's loss}, detached 0-d
    tensors, before weight and warm-up, never read back to the host. output: what the student returned.
    teacher: what the teacher returned, without gradient.
    """

    loss: torch.Tensor
    terms: dict[str, torch.Tensor]
    output: Any
    teacher: Any


class Distiller(nn.Module):
    """Train a student on a teacher's features and outputs: `out = d(*inputs, target=y); out.loss.backward()`.

    student: any module. It is never changed; `export_student()` hands it back bare.
    teacher: any module, frozen in place and held unregistered (see Frozen): in eval mode whatever `.train()`
        says, in neither `parameters()` nor `state_dict()`, moved by `d.to(device)`, without gradients. None
        where every call replays stored outputs.
    terms: Terms, what is compared and how. task_loss: task_loss(output, target) is added with weight 1.
    teacher_dtype: the only thing that changes the teacher's dtype. Floating-point inputs are cast to the
        teacher's dtype.
    example_inputs: a tensor or tuple for the forward of both models. With them, shapes are checked at
        construction and every adapter="auto" is built from them. Without, adapters are built from what the
        layers declare, else from a forward on zeros of a usual size; that forward runs in eval mode and
        leaves no trace.
    teacher_inputs: teacher_inputs(*inputs, **kwargs) gives what the teacher gets (a tensor, or a tuple of
        arguments), for teachers that are normalised or called otherwise than the student.

    Wrap it, not the models: `DistributedDataParallel(d)`, `fully_shard(d)`, `torch.compile(d)`. Under DDP, a
    student part that no term and no task loss uses (the head, with features alone) needs
    find_unused_parameters=True. Of activation checkpointing FeatureTap speaks.

    Errors: TypeError and ValueError for arguments; ValueError for a missing path, or shapes that do not fit,
    naming both modules and both shapes; RuntimeError for a model compiled already, and for a feature that a
    forward did not produce or that gradients cannot reach.
    """

    progress: torch.Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        terms: Sequence[Term] = (),
        task_loss: Callable[..., torch.Tensor] | None = None,
        teacher_dtype: torch.dtype | None = None,
        *,
        example_inputs: Any = None,
        teacher_inputs: Callable[..., Any] | None = None,
    ):
        super().__init__()
        _check_arguments(student, teacher, terms, task_loss)
        self.student = student
        self.terms = nn.ModuleList(
            BoundTerm(t, name) for t, name in zip(terms, unique_names(terms), strict=True)
        )
        for term in self.terms:
            term.check_paths(student, teacher)
        self.task_loss = task_loss
        self.teacher_inputs = teacher_inputs
        self._student_taps = Recorder(
            student, _all_paths(t.student for t in terms), role="student", differentiable=True
        )
        self._frozen = self._teacher_taps = None
        if teacher is not None:
            self._teacher_taps = Recorder(teacher, _all_paths(t.teacher for t in terms), role="teacher")
            self._frozen = Frozen(teacher, dtype=teacher_dtype, grad=False)
        for taps in filter(None, (self._student_taps, self._teacher_taps)):
            weakref.finalize(self, taps.detach).atexit = False  # the hooks go with the Distiller
        like = next(student.parameters(), torch.empty(0))
        self.register_buffer("progress", torch.zeros((), dtype=torch.float32, device=like.device))
        build_adapters(list(self.terms), student, teacher, self._example_features, example_inputs)

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher itself."""
        return None if self._frozen is None else self._frozen.module

    def forward(
        self, *inputs: Any, target: Any = None, replay: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> DistillerOutput:
        """Run both models on the inputs and add up the terms.

        target: for task_loss and for terms with target=True; required where there are any.
        replay: {teacher path: stored output}, as from a TeacherCache; the teacher then does not run. {"":
            logits} replaces the teacher's output.
        kwargs: passed to both models.
        """
        self._check_call(target)
        if not self._student_taps.attached and not torch.compiler.is_compiling():
            self._student_taps.attach(self.student)
        if replay is None:
            teacher_output, wanted = self._run_teacher(inputs, kwargs)
        else:
            teacher_output, wanted = replay.get(""), self._replayed(replay)
        output, features = self._student_taps.run(self.student, inputs, kwargs)
        parts, values = [], {}
        if self.task_loss is not None:
            parts.append(scalar(self.task_loss(output, target), "task_loss"))
        for term in self.terms:
            value = term(pick(features, term.student), pick(wanted, term.teacher), target)
            values[term.name] = value.detach()
            parts.append(term.scale(self.progress) * value)
        return DistillerOutput(sum(parts[1:], parts[0]), values, output, teacher_output)

    def set_progress(self, x: float | torch.Tensor) -> None:
        """Say how far training is, in the units of the terms' warm-ups (recipes pass epochs, also parts)."""
        if not isinstance(x, torch.Tensor) and not (math.isfinite(x) and x >= 0):
            raise ValueError(f"progress must be a finite number of at least 0, got {x!r}")
        self.progress.fill_(x)

    def export_student(self) -> nn.Module:
        """The student, the object given at construction, with the taps' hooks removed.

        Training may go on: the next call puts the hooks back (before a call of a compiled Distiller:
        `attach()`).
        """
        self._student_taps.detach()
        return self.student

    def attach(self) -> None:
        """Put the hooks on the student back after `export_student()`."""
        self._student_taps.attach(self.student)

    def extra_repr(self) -> str:
        return "" if self._frozen is None else f"teacher={type(self.teacher).__name__}"

    def _run_teacher(self, inputs: tuple, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._frozen is None:
            raise ValueError(
                "replay=None, but this Distiller has no teacher; it needs stored outputs in every call"
            )
        if self.teacher_inputs is not None:
            inputs = self.teacher_inputs(*inputs, **kwargs)
            inputs, kwargs = inputs if isinstance(inputs, tuple) else (inputs,), {}
        with torch.no_grad():
            return self._teacher_taps.run(self._frozen, inputs, kwargs)

    def _replayed(self, replay: Mapping[str, Any]) -> Mapping[str, Any]:
        missing = [path for path in _all_paths(t.teacher for t in self.terms) if path not in replay]
        if missing:
            raise ValueError(
                f"replay has {', '.join(map(repr, replay)) or 'nothing'}, but the terms need {missing}"
            )
        return replay

    def _check_call(self, target: Any) -> None:
        if getattr(self, "_is_replica", False):
            raise RuntimeError("DataParallel shares the taps between threads; use DistributedDataParallel")
        users = [repr(term.name) for term in self.terms if term.wants_target]
        if target is None and (users or self.task_loss is not None):
            needs = ["task_loss"] * (self.task_loss is not None) + users
            raise ValueError(f"target is None, but {', '.join(needs)} needs it: call d(*inputs, target=...)")

    def _example_features(self, *inputs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Features of both models from one forward that changes nothing."""
        with quiet(self.student):
            _, features = self._student_taps.run(self.student, inputs, {})
            _, wanted = self._run_teacher(inputs, {})
        self._student_taps.forget()
        return features, wanted

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Distiller:
        """As nn.Module, except that a change of dtype (`d.half()`) must not round the progress."""
        before = self.progress
        super()._apply(fn, recurse)
        if not before.is_meta:
            self.progress = before.to(self.progress.device)
        return self


def _all_paths(terms: Iterable[Path]) -> list[str]:
    """Every path once, in order."""
    return list(dict.fromkeys(path for each in terms for path in paths_of(each)))


def _check_arguments(student: Any, teacher: Any, terms: Any, task_loss: Any) -> None:
    check_module(student, "student")
    refuse_compiled(student, "student")
    if teacher is not None:
        check_module(teacher, "teacher")
        refuse_compiled(teacher, "teacher")
        shared = {id(p) for p in student.parameters()}
        name = next((name for name, p in teacher.named_parameters() if id(p) in shared), None)
        if name is not None:
            raise ValueError(
                f"student and teacher share the parameter {name!r}, and the teacher is frozen; "
                "pass copy.deepcopy(...) as the teacher"
            )
    if not isinstance(terms, Sequence) or not all(isinstance(term, Term) for term in terms):
        raise TypeError(f"terms must be a list of kdfast.Term, got {terms!r}")
    if task_loss is not None and not callable(task_loss):
        raise TypeError(f"task_loss must be callable as task_loss(output, target), got {task_loss!r}")
    if not terms and task_loss is None:
        raise ValueError("terms is empty and task_loss is None: there is nothing to train on")
