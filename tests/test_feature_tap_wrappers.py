"""FeatureTap in what runs a model: torch.compile, DataParallel, checkpointing, function transforms."""

from __future__ import annotations

import pytest
import torch
from distill_models import Checkpointed, X, mlp
from torch import nn

from kdfast.distill import FeatureTap


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiles_to_one_graph_with_the_same_numbers(backend) -> None:
    model, plain = mlp(), mlp()
    tap = torch.compile(FeatureTap(model, {"f": "0", "out": ""}), fullgraph=True, backend=backend)
    out, feats = tap(X)
    (out.sum() + feats["f"].square().sum()).backward()
    f = plain[0](X)
    want = plain[2](f.relu())
    (want.sum() + f.square().sum()).backward()
    torch.testing.assert_close(feats["f"], f)
    torch.testing.assert_close(out, want)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_forward_compiled_in_pieces() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(4)
            self.first, self.second = mlp(), nn.Sequential(nn.Linear(3, 2), nn.ReLU(inplace=True))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            torch._dynamo.graph_break()
            return self.second(x)

    model, plain = Broken(), Broken()
    paths = {"f": "first.0", "g": "second.0"}
    tap = FeatureTap(model, paths)
    compiled = torch.compile(tap, backend="aot_eager")
    want = FeatureTap(plain, paths)(X)
    for call in (compiled, compiled, tap, compiled):
        torch.testing.assert_close(call(X), want)


@pytest.mark.parametrize("make", [lambda m: torch.compile(m), lambda m: (m.compile(), m)[1]])
def test_a_compiled_model_is_refused(make) -> None:
    with pytest.raises(RuntimeError, match="compiled already"):
        FeatureTap(make(mlp()), {"f": "0"})
    parent = nn.Sequential(make(mlp()), nn.Linear(3, 2))
    FeatureTap(parent, {"f": "1"})
    path = next(name for name, module in parent.named_modules() if isinstance(module, nn.ReLU))
    with pytest.raises(RuntimeError, match="compiled already"):
        FeatureTap(parent, {"f": path})


def test_data_parallel_models_are_refused() -> None:
    with pytest.raises(TypeError, match="bare module"):
        FeatureTap(nn.DataParallel(mlp()), {"x": "0"})


@pytest.mark.parametrize("compiled", [False, True])
def test_activation_checkpointing(compiled) -> None:
    gradients = []
    for reentrant in (None, False):
        model = Checkpointed(reentrant)
        tap = FeatureTap(model, {"f": "block.0", "g": "block.2"})
        setting = torch._dynamo.config.patch(skip_fwd_side_effects_in_bwd_under_checkpoint=True)
        with setting:
            call = torch.compile(tap, fullgraph=True, backend="aot_eager") if compiled else tap
            out, feats = call(X)
            (out.sum() + feats["f"].square().sum() + feats["g"].square().sum()).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_function_transforms() -> None:
    tap = FeatureTap(mlp(), {"f": "0"})
    parameters = dict(tap.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(tap, parameters, (X,))[1]["f"].square().sum()

    gradient = torch.func.grad(loss)(parameters)["model.0.weight"]
    tap(X)[1]["f"].square().sum().backward()
    torch.testing.assert_close(gradient, tap.model[0].weight.grad)
