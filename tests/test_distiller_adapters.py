"""Adapters of a Term: made by Distiller ("auto"), lazy, or the caller's own."""

from __future__ import annotations

import copy

import pytest
import torch
from distill_models import X, mlp
from torch import nn

from kdfast.distill import AutoAdapter, Distiller, Term


def cnn(width: int, side: int = 8) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU()
        ),
        nn.Flatten(),
        nn.Linear(2 * width * (side // 2) ** 2, 3),
    )


def test_auto_adapters_exist_at_construction() -> None:
    d = Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0", adapter="auto")])
    assert isinstance(d.terms[0].adapter, AutoAdapter)
    names = [name for name, _ in d.named_parameters() if "adapter" in name]
    assert names == ["terms.0.adapter.projection.weight", "terms.0.adapter.projection.bias"]
    d(X).loss.backward()
    assert d.terms[0].adapter.projection.weight.grad is not None


@pytest.mark.parametrize("path", ["0", "1", "2", "3"])
def test_auto_adapters_from_an_example_forward(path) -> None:
    """Layers without a declared size; 28x28 is the only input that the head accepts."""
    student, teacher = cnn(2, side=28), cnn(4, side=28)
    before = copy.deepcopy(student.state_dict())
    random = torch.get_rng_state()
    d = Distiller(student, teacher, [Term(nn.MSELoss(), path, path)])
    torch.testing.assert_close(torch.get_rng_state(), random)
    d = Distiller(student, copy.deepcopy(teacher), [Term(nn.MSELoss(), path, path, adapter="auto")])
    torch.testing.assert_close(dict(student.state_dict()), dict(before))
    assert student.training and any(p.requires_grad for p in d.terms.parameters())
    d(torch.randn(2, 1, 28, 28)).loss.backward()


def test_auto_adapters_resize_maps_and_tokens() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, 10, 4, stride=4)
            self.norm = nn.LayerNorm(10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.embed(x).flatten(2).transpose(1, 2))

    x = torch.randn(2, 1, 16, 16)
    for student, path, teacher, other in (
        (cnn(2, 16), "0", cnn(3, 16), "2"),  # 16x16 -> 8x8
        (cnn(2, 16), "2", cnn(3, 16), "0"),  # 8x8 -> 16x16
        (cnn(2, 16), "2", Patches(), "norm"),  # map -> tokens
        (Patches(), "norm", cnn(3, 16), "0"),  # tokens -> map
    ):
        d = Distiller(student, teacher, [Term(nn.MSELoss(), path, other, adapter="auto")], example_inputs=x)
        d(x).loss.backward()


def test_equal_channels_need_no_projection() -> None:
    d = Distiller(mlp(6), mlp(6, seed=3), [Term(nn.MSELoss(), "0", "0", adapter="auto")])
    assert not list(d.terms.parameters())


def test_auto_adapters_that_cannot_be_built_say_so() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.Flatten())

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.body(x + y)

    term = Term(nn.MSELoss(), "body", "0", adapter="auto")
    with pytest.raises(ValueError, match="adapter='auto' of 'MSELoss' .* example_inputs"):
        Distiller(Two(), mlp(), [term])
    with pytest.raises(ValueError, match="term 'MSELoss': student module 'body' gave .* do not fit"):
        Distiller(
            Two(), cnn(2), [term], example_inputs=(X, X), teacher_inputs=lambda x, y: x.new_zeros(3, 1, 8, 8)
        )
    d = Distiller(Two(), mlp(), [term], example_inputs=(X, X), teacher_inputs=lambda x, y: x + y)
    d(X, X).loss.backward()


def test_own_adapters() -> None:
    adapter = nn.Linear(5, 7)
    d = Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0", adapter=adapter)])
    assert d.terms[0].adapter is adapter
    d(X).loss.backward()
    assert adapter.weight.grad is not None


def test_lazy_adapters_are_built_at_construction() -> None:
    adapter = nn.Sequential(nn.LazyLinear(9), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(7))
    d = Distiller(mlp(5), mlp(7), [Term(nn.MSELoss(), "0", "0", adapter=adapter)])
    assert adapter[0].weight.shape == (9, 5) and adapter[3].weight.shape == (7, 9)
    assert not adapter[1].running_mean.any() and adapter.training
    d(X).loss.backward()
