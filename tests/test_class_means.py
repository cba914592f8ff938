"""ClassMeans and the command that builds a file of class means."""

import json

import pytest
import torch
from feature_checks import refuses
from ranks import on_two_ranks
from waves import wave

from kdfast import class_means as command
from kdfast.nn import ClassMeans


def test_vector_6():
    means = ClassMeans(2, 3)
    embeddings, labels = wave((6, 3)), torch.arange(6) % 2
    for part in (slice(0, 2), slice(2, 6)):
        means.update(embeddings[part], labels[part])
    expected = torch.tensor(
        [[0.6395415401, 0.9630876764, 0.4011754445], [-0.529575641, -0.9734373244, -0.522325221]]
    )
    assert means.sums.dtype == torch.float64 and means.compute().dtype == torch.float32
    torch.testing.assert_close(means.compute(), expected, rtol=1e-6, atol=0)


def test_classes_never_seen():
    means = ClassMeans(4, 3)
    means.update(wave((2, 3)), torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="3 classes: 0, 2, 3"):
        means.compute()
    means.missing = "ignore"
    assert means.compute().isnan().all(1).tolist() == [True, False, True, True]
    refuses(ValueError, "missing must be one of", ClassMeans, 4, 3, "skip")
    refuses(ValueError, r"features must be \[rows, 3\]", means.update, wave((2, 4)), torch.tensor([1, 1]))


def test_file(tmp_path):
    means = ClassMeans(2, 3, "ignore", provenance={"teacher": "r50", "transform": "train"})
    means.update(wave((2, 3)), torch.tensor([1, 1]))
    means.save(tmp_path / "means.safetensors")
    again = ClassMeans.load(tmp_path / "means.safetensors")
    assert (
        again.provenance == means.provenance and again.missing == "ignore" and again.counts.tolist() == [0, 2]
    )
    assert torch.equal(again.sums, means.sums)
    filled = ClassMeans(2, 3)
    assert filled.load(tmp_path / "means.safetensors") is filled and torch.equal(filled.sums, means.sums)
    with pytest.raises(ValueError, match="holds 2 classes of 3 features"):
        ClassMeans(3, 3).load(tmp_path / "means.safetensors")
    assert means.half().sums.dtype == torch.float64


def test_json_of_the_official_code(tmp_path):
    (tmp_path / "emb.json").write_text(json.dumps({"0": [1.0, 2.0], "2": [3.0, 4.0]}))
    means = ClassMeans.from_json(tmp_path / "emb.json", missing="ignore")
    assert means.counts.tolist() == [1, 0, 1] and means.compute()[2].tolist() == [3.0, 4.0]


def both_classes_everywhere(rank):
    """Each rank sees one class alone; both must know both."""
    x, y = wave((6, 3)), torch.arange(6) % 2
    means = ClassMeans(2, 3)
    means.update(x[rank::2], y[rank::2])
    alone = torch.stack([x[y == k].double().mean(0) for k in range(2)]).float()
    torch.testing.assert_close(means.compute(), alone)


def test_ranks_are_added_up(tmp_path):
    on_two_ranks(both_classes_everywhere, tmp_path)


TEACHER = """
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

def classifier():
    torch.manual_seed(0)
    first, last = torch.nn.Linear(3 * 8 * 8, 5), torch.nn.Linear(5, 2)
    return torch.nn.Sequential(torch.nn.Flatten(), first, torch.nn.ReLU(), last)

def images():
    torch.manual_seed(0)
    return torch.utils.data.TensorDataset(torch.randn(6, 3, 8, 8), torch.arange(6) % 2)

def detector():
    torch.manual_seed(0)
    body = torch.nn.Conv2d(3, 4, 8, 8)
    body.out_channels = 4
    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    return FasterRCNN(body, 3, min_size=64, max_size=64, rpn_anchor_generator=anchors)

class Boxes(torch.utils.data.Dataset):
    def __len__(self):
        return 3
    def __getitem__(self, i):
        if i >= 3:
            raise IndexError
        box = torch.tensor([[8.0, 8.0, 40.0 + i, 48.0]])
        return torch.rand(3, 64, 64), {"boxes": box, "labels": torch.tensor([1 + i % 2])}
"""


@pytest.fixture
def teacher_module(tmp_path, monkeypatch, need):
    need.module("torchvision")
    (tmp_path / "kd_teacher_of_test.py").write_text(TEACHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "kd_teacher_of_test"


def test_command_on_images(teacher_module, tmp_path, capsys):
    options = [
        "--teacher",
        f"{teacher_module}:classifier",
        "--data",
        f"{teacher_module}:images",
        "--device",
        "cpu",
    ]
    assert command.main([*options, "--num-classes", "2", "--out", "means.safetensors"]) == 0
    means = ClassMeans.load(tmp_path / "means.safetensors")
    import kd_teacher_of_test as module

    images, labels = module.images().tensors
    with torch.no_grad():
        embeddings = module.classifier()[:3](images)
    torch.testing.assert_close(means.compute()[1], embeddings[labels == 1].mean(0))
    assert means.provenance["teacher"] == f"{teacher_module}:classifier"
    assert command.main([*options, "--out", "means.safetensors"]) == 2
    assert "--num-classes is needed" in capsys.readouterr().err


def test_command_refuses_before_the_pass(teacher_module, tmp_path, capsys):
    (tmp_path / "broken.pt").write_bytes(b"hello")
    (tmp_path / "broken.safetensors").write_bytes(b"hello")
    given = ["--teacher", f"{teacher_module}:classifier", "--data", f"{teacher_module}:images"]
    for more, sentence in (
        (["--out", "no/such/folder.safetensors"], "--out no/such/folder.safetensors must lie in a folder"),
        (["--out", "a.safetensors", "--batches", "0"], "--batches must be at least 1, got 0"),
        (["--out", "a.safetensors", "--weights", "broken.pt"], "--weights broken.pt must be a state_dict"),
        (["--out", "a.safetensors", "--weights", "broken.safetensors"], "must be a state_dict"),
    ):
        assert command.main([*given, "--num-classes", "2", *more]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"not safetensors at all")
    refuses(ValueError, "is not a file of class means", ClassMeans.load, tmp_path / "other.safetensors")
    for text in ('{"cat": [1.0]}', '{"0": [1.0], "1": [1.0, 2.0]}', "{}", "[]"):
        (tmp_path / "other.json").write_text(text)
        refuses(ValueError, "rows of one length", ClassMeans.from_json, tmp_path / "other.json")


def test_command_on_an_image_folder(teacher_module, tmp_path):
    from torchvision.io import write_png

    for name, shade in (("a", 30), ("b", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        write_png(torch.full((3, 9, 9), shade, dtype=torch.uint8), str(tmp_path / "images" / name / "1.png"))
    options = [
        "--teacher",
        f"{teacher_module}:classifier",
        "--data",
        "images",
        "--size",
        "8",
        "--transform",
        "eval",
    ]
    assert command.main([*options, "--device", "cpu", "--out", "means.safetensors"]) == 0
    assert ClassMeans.load("means.safetensors").counts.tolist() == [1, 1]


def test_command_on_rois(teacher_module):
    options = [
        "--teacher",
        f"{teacher_module}:detector",
        "--data",
        f"{teacher_module}:Boxes",
        "--rois",
        "--device",
        "cpu",
    ]
    assert (
        command.main([*options, "--batch-size", "2", "--missing", "ignore", "--out", "rois.safetensors"]) == 0
    )
    means = ClassMeans.load("rois.safetensors")
    assert (
        means.dim == 1024 and means.num_classes == 3 and means.counts[0] > 0 and (means.counts[1:] > 0).all()
    )
