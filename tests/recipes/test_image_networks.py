"""Networks of the recipes for images: by name, their widths and stages, weights from files."""

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

import kdfast
from kdfast.recipes.common import models, network_parts
from kdfast.recipes.common.errors import UserError


@pytest.mark.parametrize(
    ("name", "width"),
    [("cifar_resnet8", 64), ("cifar_resnet8x4", 256), ("cifar_wrn_16_2", 128), ("cifar_shufflenet_v1", 960),
     ("cifar_shufflenet_v2", 1024), ("cifar_mobilenet_v2", 1280), ("resnet18", 512),
     ("torchvision/resnet18", 512)],
)  # fmt: skip
def test_networks_by_name(name, width):
    """The widths are those of the ND paper's table."""
    network = models.create(models.parse("--student", name), classes=5, channels=1, size=32).eval()
    path, dim = network_parts.expose_embedding(network)
    keys = set(network.state_dict())
    logits, features = kdfast.FeatureTap(network, {"embedding": path})(torch.rand(2, 1, 32, 32))
    assert logits.shape == (2, 5) and dim == width and features["embedding"].shape == (2, width)
    assert network_parts.expose_embedding(network) == (path, dim) and set(network.state_dict()) == keys
    classifier = network.get_submodule(path.rpartition(".")[0])
    assert torch.allclose(
        nn.functional.linear(features["embedding"], classifier.weight, classifier.bias), logits
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_trunk_is_the_first_part_of_mobilenet(channels):
    spec = models.parse("--student", "mobilenet_v2_trunk")
    trunk = models.create(spec, classes=3, channels=channels, size=64)
    whole = mobilenet_v2().state_dict()
    own = {key: value for key, value in trunk.state_dict().items() if key.startswith("features.")}
    assert set(own) == {key for key in whole if key.startswith(tuple(f"features.{i}." for i in range(10)))}
    assert sum(p.numel() for p in trunk.parameters()) == {1: 184_707, 3: 185_283}[channels]
    assert trunk(torch.rand(2, channels, 64, 64)).shape == (2, 3)


def test_stages_go_from_large_to_small():
    network = models.create(models.parse("--student", "cifar_resnet8"), classes=5, channels=1)
    assert network_parts.stages(network, torch.rand(1, 1, 32, 32)) == [
        ("layer1", (16, 32, 32)), ("layer2", (32, 16, 16)), ("norm", (64, 8, 8)),
    ]  # fmt: skip
    network = models.create(models.parse("--student", "timm/convnextv2_atto"), classes=5)
    assert [path for path, _ in network_parts.stages(network, torch.rand(1, 3, 64, 64))] == [
        f"stages.{i}" for i in range(4)
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [("resnet18x", "no such network; close names: resnet18"), ("resnet18@nowhere.pth", "no file nowhere"),
     ("resnet18@imagenet", "mobilenet_v2@imagenet"), ("nowhere.safetensors", "there is no such file")],
)  # fmt: skip
def test_bad_names(given, message):
    with pytest.raises(UserError, match=message):
        models.parse("--teacher", given)


def test_weights_of_another_architecture(tmp_path):
    def written(name: str, classes: int, wrap=lambda state: state) -> str:
        network = models.create(models.parse("--teacher", name), classes=classes, channels=1)
        path = tmp_path / f"{name}-{classes}.pth"
        torch.save(wrap(network.state_dict()), path)
        return f"cifar_resnet8@{path}"

    def load(given: str, **options):
        return models.create(
            models.parse("--teacher", given), classes=5, channels=1, option="--teacher", **options
        )

    wrapped = written("cifar_resnet8", 5, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}})
    load(wrapped)
    with pytest.raises(UserError, match=r"weights of another network: it lacks|also has layer1"):
        load(written("cifar_resnet14", 5))
    narrow = written("cifar_resnet8", 5, lambda state: state | {"layer3.0.bn1.bias": torch.zeros(32)})
    with pytest.raises(UserError, match=r"does not fit: layer3.0.bn1.bias is \[32\] in the file and \[64\]"):
        load(narrow)
    load(written("cifar_resnet8", 7))
    with pytest.raises(UserError, match=r"fc.weight is \[7, 64\] in the file and \[5, 64\]"):
        load(written("cifar_resnet8", 7), new_head=False)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load(f"cifar_resnet8@{tmp_path / 'text.pth'}")
