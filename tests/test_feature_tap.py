"""FeatureTap: what is recorded, also under in-place writes, and what is refused."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from distill_models import X, mlp
from torch import nn

from kdfast.distill import FeatureTap


class Block(nn.Module):
    """A residual block whose sum overwrites the output of `norm`, as torchvision's ResNet does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm(x)
        out += x
        return self.head(out)


class Outputs(OrderedDict):
    """A model output as transformers makes them: a mapping whose entries are attributes too."""

    def __getattr__(self, name: str) -> torch.Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Structured(nn.Module):
    """A module that returns a tuple inside a model that returns a mapping."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            y = self.linear(x)
            return y, {"twice": 2 * y}

    def __init__(self) -> None:
        super().__init__()
        self.pair = self.Pair()

    def forward(self, x: torch.Tensor, *, shift: float = 0.0) -> Outputs:
        y, more = self.pair(x)
        return Outputs(logits=more["twice"] + shift, hidden=y)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.head(x))


def test_output_and_features() -> None:
    model = mlp()
    tap = FeatureTap(model, {"first": "0", "last": "2", "logits": ""})
    out, feats = tap(X)
    assert list(feats) == ["first", "last", "logits"]
    torch.testing.assert_close(feats["first"], F.linear(X, model[0].weight, model[0].bias))
    torch.testing.assert_close(out, model(X))
    assert feats["logits"] is out
    torch.testing.assert_close(feats["last"], out)
    assert {name.split(".")[0] for name in tap.state_dict()} == {"model"}


def test_gradients_flow_through_features() -> None:
    model, plain = mlp(), mlp()
    _, feats = FeatureTap(model, {"first": "0"})(X)
    feats["first"].square().sum().backward()
    plain[0](X).square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad, plain[0].weight.grad)


@pytest.mark.parametrize("make, path", [(mlp, "0"), (Block, "norm")])
def test_in_place_operations_after_a_tap(make, path) -> None:
    model = make()
    tap = FeatureTap(model, {"f": path})
    want = model.get_submodule(path)(X).detach()
    for _ in range(3):  # the first forward finds out, the next ones know
        out, feats = tap(X)
        torch.testing.assert_close(feats["f"], want)
    torch.testing.assert_close(out, model(X))
    with torch.inference_mode():
        torch.testing.assert_close(tap(X)[1]["f"], want)


def test_copies_only_where_something_writes() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.data_ptr()))
    tap = FeatureTap(model, {"f": "0"})
    tap(X)
    assert tap(X)[1]["f"].data_ptr() == seen[-1]


def test_a_write_that_begins_later_is_named() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.write = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x)
            return y.relu_() if self.write else y.relu()

    model = Sometimes()
    tap = FeatureTap(model, {"f": "linear"})
    tap(X)
    model.write = True
    with pytest.raises(RuntimeError, match="'linear' was overwritten in place"):
        tap(X)
    torch.testing.assert_close(tap(X)[1]["f"], model.linear(X))


def test_tuples_and_mappings() -> None:
    model = Structured()
    paths = {
        "pair": "pair",
        "first": "pair[0]",
        "twice": "pair[1][twice]",
        "last": "pair[-1]",
        "out": "",
        "logits": "[logits]",
    }
    out, feats = FeatureTap(model, paths)(X, shift=1.0)
    y = model.pair.linear(X)
    assert isinstance(feats["pair"], tuple) and feats["out"] is out
    torch.testing.assert_close(feats["first"], y)
    torch.testing.assert_close(feats["twice"], 2 * y)
    assert list(feats["last"]) == ["twice"]
    torch.testing.assert_close(feats["logits"], 2 * y + 1)
    with pytest.raises(ValueError, match=r"no item \[2\] in a tuple of 2"):
        FeatureTap(model, {"x": "pair[2]"})(X)
    with pytest.raises(ValueError, match=r"no item \[loss\] in a Outputs with keys logits, hidden"):
        FeatureTap(model, {"x": "[loss]"})(X)


def test_a_module_called_twice_gives_both_outputs_in_order() -> None:
    model = Shared()
    _, feats = FeatureTap(model, {"all": "head", "second": "head[1]"})(X)
    assert isinstance(feats["all"], list) and len(feats["all"]) == 2
    torch.testing.assert_close(feats["all"][0], model.head(X))
    torch.testing.assert_close(feats["second"], model.head(model.head(X)))


def test_a_module_not_called() -> None:
    with pytest.raises(RuntimeError, match="'unused' was not called"):
        FeatureTap(Shared(), {"x": "unused"})(X)


def test_a_missing_path_lists_close_matches() -> None:
    model = nn.Sequential(OrderedDict(layer1=nn.Linear(4, 4), layer2=nn.Sequential(nn.Linear(4, 4))))
    with pytest.raises(ValueError, match="Sequential has no module 'layer3'.*'layer[12]'"):
        FeatureTap(model, {"x": "layer3"})
    with pytest.raises(ValueError, match="'layer2.0'"):
        FeatureTap(model, {"x": "layers.0"})


@pytest.mark.parametrize("arguments", [("model", {}), (mlp(), ["0"]), (mlp(), {"x": 0})])
def test_wrong_types(arguments) -> None:
    with pytest.raises(TypeError):
        FeatureTap(*arguments)


def test_removal_leaves_the_model_as_it_was() -> None:
    model = mlp()
    with FeatureTap(model, {"f": "0"}) as tap:
        tap(X)
        assert model[0]._forward_hooks
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="removed"):
        tap(X)
    tap.attach()
    assert "f" in tap(X)[1]


def test_two_taps_on_one_model() -> None:
    model = mlp()
    one, two = FeatureTap(model, {"f": "0"}), FeatureTap(model, {"g": "0"})
    assert torch.equal(one(X)[1]["f"], two(X)[1]["g"])


def test_nothing_is_kept_between_calls() -> None:
    model = mlp()
    tap = FeatureTap(model, {"f": "2"})
    tap(X)
    model(X)
    assert tap._recorder._calls is None
    with pytest.raises(RuntimeError):
        tap(torch.randn(3, 5))  # a failed forward
    assert tap._recorder._calls is None
    tap(X)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tap: pickle.loads(pickle.dumps(tap))])
def test_copies_record_for_themselves(clone) -> None:
    tap = FeatureTap(mlp(), {"f": "0"})
    tap(X)
    twin = clone(tap)
    with torch.no_grad():
        twin.model[0].weight.zero_()
    assert not torch.equal(tap(X)[1]["f"], twin(X)[1]["f"])
    assert twin._recorder is not tap._recorder
    twin.remove()
    assert not twin.model[0]._forward_hooks and tap.model[0]._forward_hooks
