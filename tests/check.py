"""check_op: an op against its definition in float64, on the backend in use, within an error budget.

    |ours - truth| <= 2 |the definition in the input's dtype - truth| + eps

where truth is the definition in float64 on the same rounded inputs; in the L2 norm for gradients, by number
for values. The definition in low precision is what a user would otherwise run, so "as accurate as plain
PyTorch, twice over" holds without a tolerance that somebody chose; eps is the rounding of the result itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

VALUE_EPS = {torch.float64: 1e-13}  # 6e-7 otherwise, 5 units of float32: sums of p and q are 1 to one each
EPS = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 4e-4}
SIZES = (1, 7, 8, 9, 255, 256, 257, 1000)
ROWS = (0, 1, 3)
ROUNDING = 1e-13  # per number: the definition's own in float64


@dataclass(frozen=True)
class Case:
    """Inputs of one call: `inputs` get gradients, `constants` do not, in the order of the op's arguments."""

    name: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    rounding: float = ROUNDING  # or what is left where terms cancel


def logits(
    shape: Sequence[int], dtype: torch.dtype, kind: str = "plain", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Student and teacher: "plain" N(0, 1); "peaky", with a spike as language models have it; "near" each
    other."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    if kind == "peaky":
        student, teacher = 3 * student, 3 * teacher
        student[..., 0] += 20
        teacher[..., -1] += 20
    if kind == "near":
        student = teacher + 1e-2 * student
    return student.to(dtype), teacher.to(dtype)


def interpreted() -> bool:
    """Whether Triton's interpreter runs, which takes seconds where a kernel takes microseconds: cases are
    few then. KDFAST_TRITON_FULL=1 (`make interpret`) asks for all of them."""
    return os.environ.get("TRITON_INTERPRET") == "1" and os.environ.get("KDFAST_TRITON_FULL") != "1"


def _sizes() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and classes."""
    return ((0, 3), (1, 9, 257)) if interpreted() else (ROWS, SIZES)


def logit_cases(dtype: torch.dtype) -> Iterator[Case]:
    """Shapes around the machine, strides, class dimensions, inputs: what every op on two sets of logits must
    take."""
    all_rows, all_classes = _sizes()
    for rows in all_rows:
        for classes in all_classes:
            student, teacher = logits((rows, classes), dtype, seed=rows + classes)
            yield Case(f"{rows}x{classes}", (student,), (teacher,))
    for kind in ("peaky", "near"):
        student, teacher = logits((5, 300), dtype, kind)
        yield Case(kind, (student,), (teacher,), {"temperature": 2.0})
    student, teacher = logits((2, 5, 4, 33), dtype)
    yield Case("images", (student,), (teacher,), {"dim": 1})
    yield Case("images, joined", (student,), (teacher,), {"dim": (2, 3)})
    yield Case("images, apart", (student,), (teacher,), {"dim": (1, 3)})
    last = torch.channels_last
    yield Case("channels last", (student.to(memory_format=last),), (teacher,), {"dim": 1})
    yield Case("channels last, both", tuple(x.to(memory_format=last) for x in (student, teacher))[:1],
               (teacher.to(memory_format=last),), {"dim": 1})  # fmt: skip
    student, teacher = logits((6, 70), dtype)
    yield Case("sliced", (student[::2, 1::3],), (teacher[1::2, 0:69:3],))
    yield Case("transposed", (student.t(),), (teacher.t(),))
    yield Case("teacher expanded", (student,), (teacher[:1].expand(6, 70),))
    yield Case("one row", (student[0],), (teacher[0],), {"dim": 0})
    mask = torch.tensor([True, False, True, True, False, True])
    yield Case("mask", (student,), (teacher,), {"mask": mask, "reduction": "mean"})
    yield Case(
        "weights", (student,), (teacher,), {"mask": mask * torch.linspace(0.5, 2, 6), "reduction": "mean"}
    )


def not_too_large(cases: Iterator[Case], most: int = 1500) -> Iterator[Case]:
    """The cases; in Triton's interpreter those of up to `most` numbers."""
    return (case for case in cases if not interpreted() or case.inputs[0].numel() <= most)


def as_double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@contextmanager
def nan_filled_memory() -> Iterator[None]:
    """What torch allocates is NaN until it is written: an output that a kernel forgets is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory and torch.empty(1).isnan()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def run(function: Callable, case: Case, *, device: str = "cpu", double: bool = False, upstream: float = 1.0):
    """Values and gradients of one call."""
    change = as_double if double else lambda x: x
    move = lambda x: change(x).detach().to(device) if isinstance(x, Tensor) else x  # noqa: E731
    inputs = [move(x).requires_grad_() for x in case.inputs]
    keywords = {name: move(x) for name, x in case.keywords.items()}
    constants = [move(x) for x in case.constants]
    with nan_filled_memory():
        out = function(*inputs, *constants, **keywords)
        outs = out if isinstance(out, tuple) else (out,)
        total = sum((x.sum() * weight for x, weight in zip(outs, (1.0, 0.7, 1.3), strict=False)))
        grads = torch.autograd.grad(total * upstream, inputs)
    return [x.detach().cpu() for x in outs], [x.cpu() for x in grads]


def within(
    name: str, ours: Tensor, plain: Tensor, truth: Tensor, eps: float, rounding: float = ROUNDING
) -> None:
    assert not torch.isnan(ours).any(), f"{name}: not a number"
    special = torch.isinf(truth)
    assert torch.equal(torch.isinf(ours.double()), special), f"{name}: infinities differ"
    ours, plain, truth = (torch.where(special, 0, x.double()) for x in (ours, plain, truth))
    error, allowed = (ours - truth).norm(), 2 * (plain - truth).norm() + eps * truth.norm()
    tiny = rounding * (1 + ours.numel()) ** 0.5
    assert error <= allowed + tiny, (
        f"{name}: error {error:.3e}, allowed {allowed:.3e}, size {truth.norm():.3e}"
    )


def check_op(function: Callable, reference: Callable, cases: Iterator[Case], device: str = "cpu") -> int:
    """Checks every case; returns how many. Values are in the compute type, gradients in their input's
    dtype."""
    count = 0
    for case in cases:
        dtype = case.inputs[0].dtype
        values, grads = run(function, case, device=device)
        again, grads_again = run(function, case, device=device)
        plain_values, plain_grads = run(reference, case, device=device)
        true_values, true_grads = run(reference, case, double=True)
        for i, value in enumerate(values):
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32), case.name
            assert value.shape == true_values[i].shape, f"{case.name}: shape {value.shape}"
            assert torch.equal(value, again[i]), f"{case.name}: two runs differ"
            eps = VALUE_EPS.get(dtype, 6e-7)
            within(f"{case.name}: value {i}", value, plain_values[i], true_values[i], eps, case.rounding)
        for i, grad in enumerate(grads):
            assert grad.dtype == case.inputs[i].dtype and grad.shape == case.inputs[i].shape, case.name
            assert torch.equal(grad, grads_again[i]), f"{case.name}: two runs differ"
            eps = EPS[dtype]
            within(f"{case.name}: gradient {i}", grad, plain_grads[i], true_grads[i], eps, case.rounding)
        count += 1
    assert count > 0, "no case was checked"
    return count
