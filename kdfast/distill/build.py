"""adapter="auto" before the first step: from what layers declare, else from an example forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdfast.distill.term import pick

if TYPE_CHECKING:
    from kdfast.distill.bound_term import BoundTerm

_SIDES = {
    3: (64, 256, 1024, 16000),
    4: (32, 224, 28, 64, 16, 96, 128, 256, 299, 384, 448, 512, 8),
    5: (16, 32, 64, 112),
}
_CONVS = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
_RECURRENT = (nn.RNN, nn.LSTM, nn.GRU)


def guess_inputs(model: nn.Module) -> Iterator[torch.Tensor]:
    """Zeros of the shapes that the model's first layer could take, usual image sides first; batch 2."""
    layer = next(
        (m for m in model.modules() if isinstance(m, (*_CONVS, nn.Linear, nn.Embedding, *_RECURRENT))), None
    )
    if layer is None:
        return
    weight = next(layer.parameters())
    if isinstance(layer, nn.Embedding):
        yield torch.zeros(2, 16, dtype=torch.int64, device=weight.device)
        return
    like = {"dtype": weight.dtype, "device": weight.device}
    if isinstance(layer, nn.Linear):
        yield torch.zeros(2, layer.in_features, **like)
        yield torch.zeros(2, 16, layer.in_features, **like)
    elif isinstance(layer, _RECURRENT):
        yield torch.zeros(*((2, 16) if layer.batch_first else (16, 2)), layer.input_size, **like)
    else:
        dims = next(dims for kind, dims in _CONVS.items() if isinstance(layer, kind))
        for side in _SIDES[dims]:
            yield torch.zeros(2, layer.in_channels, *[side] * (dims - 2), **like)


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Run a model so that nothing changes: eval mode, no gradients, random state and train flags restored."""
    flags = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in flags.items():
            module.training = training


def build_adapters(
    terms: list[BoundTerm],
    student: nn.Module,
    teacher: nn.Module | None,
    forward: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
    example_inputs: Any = None,
) -> None:
    """Build every adapter="auto"; with example inputs, also check that every term's shapes fit.

    forward(*inputs) gives the features of student and teacher by path, and changes nothing.
    """
    if example_inputs is not None:
        inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        features = forward(*inputs)
    else:
        terms = [term for term in terms if term.is_open]
        if terms and teacher is None:
            raise ValueError(
                'adapter="auto" needs a teacher to see its shapes; pass an nn.Module as the adapter'
            )
        terms = [term for term in terms if not term.build_declared(student, teacher)]
        if not terms:
            return
        features = _first_that_runs(forward, student, needed_by=[term.name for term in terms])
    for term in terms:
        ours, theirs = pick(features[0], term.student), pick(features[1], term.teacher)
        if term.is_open:
            term.build(ours, theirs, student)
        with quiet(term):
            term.adapt(ours, theirs)


def _first_that_runs(run: Callable[..., Any], model: nn.Module, *, needed_by: list[str]) -> Any:
    """`run(x)` for the first guessed input that the models accept; ValueError listing the shapes tried."""
    tried, last = [], None
    for x in guess_inputs(model):
        try:
            return run(x)
        except Exception as error:  # any model may fail in any way on a wrong size
            tried.append(str(list(x.shape)))
            last = error
    what = (
        f"the models ran with none of the inputs tried ({', '.join(tried)})"
        if tried
        else "no input could be guessed"
    )
    raise ValueError(
        f"adapter='auto' of {', '.join(map(repr, needed_by))} needs to know the features' shapes, but "
        f"{what}; pass example_inputs=(x, ...) to the Distiller"
    ) from last
