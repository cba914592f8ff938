"""What the recipes for images share: data, networks by name, training over seeds with its report."""

import dataclasses
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v2

import kdfast
from kdfast.cli import main
from kdfast.recipes.common import augment, image_set, models, network_parts
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.folder import RunFolder
from kdfast.recipes.common.image_options import Factor, ImageOptions
from kdfast.recipes.common.study import Study


def picture(path, shade: int, size: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 40, (size, size, 3)) + shade
    Image.fromarray(noise.astype(np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path):
    """DATA/CLASS/*.png of two classes, dark and light."""
    for label, shade in (("dark", 20), ("light", 180)):
        for number in range(10):
            picture(tmp_path / "data" / label / f"{number}.png", shade + number)
    return tmp_path / "data"


# ---- Data ------------------------------------------------------------------------------------------------


def test_digits_are_split_by_class_and_normalised():
    images = image_set.load("digits")
    assert [len(part) for part in (images.train, images.validation, images.test)] == [1258, 180, 359]
    rows = [set(part.indices) for part in (images.train, images.validation, images.test)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    pixels = torch.stack([images.plain_train[row][0] for row in range(len(images.train))])
    assert pixels.mean().abs() < 1e-5 and abs(pixels.std() - 1) < 1e-3
    assert isinstance(images.augment, nn.Module)
    assert images.labels.tolist() == [label for _, label in images.train]


def test_few_labels_are_of_every_class_and_drawn_by_the_seed():
    images = image_set.load("digits")
    rows = images.few(0.01, 0)
    assert torch.bincount(images.labels[rows]).tolist() == [1] * 10
    assert rows == images.few(0.01, 0) != images.few(0.01, 1)
    assert images.few(1.0, 0) == list(range(len(images.train)))


def test_class_folders(folders):
    images = image_set.load(str(folders), size=16)
    assert images.classes == ("dark", "light") and images.channels == 3
    assert [len(part) for part in (images.train, images.validation, images.test)] == [14, 2, 4]
    pixels, label = images.train[0]
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.float32 and label in (0, 1)
    assert image_set.load(str(folders), size=16, channels=1).train[0][0].shape == (1, 16, 16)


def test_train_and_val_folders(tmp_path, folders):
    root = tmp_path / "imagenet"
    root.mkdir()
    folders.rename(root / "train")
    for label in ("dark", "light"):
        picture(root / "val" / label / "0.png", 9)
    images = image_set.load(str(root), size=16)
    assert [len(part) for part in (images.train, images.validation, images.test)] == [18, 2, 2]
    assert len(image_set.load(str(root), size=16, validation=0).train) == 20
    picture(root / "val" / "grey" / "0.png", 90)
    with pytest.raises(UserError, match="differ in the classes grey"):
        image_set.load(str(root), size=16)


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-100-python"])
def test_cifar_files(tmp_path, name):
    ten = name.startswith("cifar-10-")
    files = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if ten else ["train", "test"]
    place = tmp_path / name
    place.mkdir()
    count, classes = 40, 10 if ten else 20
    for file in files:
        labels = [i % classes for i in range(count)]
        content = {b"data": np.zeros((count, 3072), np.uint8), b"labels" if ten else b"fine_labels": labels}
        (place / file).write_bytes(pickle.dumps(content))
    names = {b"label_names" if ten else b"fine_label_names": [b"%d" % i for i in range(classes)]}
    (place / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(names))
    images = image_set.load(str(tmp_path))
    assert images.train[0][0].shape == (3, 32, 32) and len(images.classes) == classes
    held = len(files[:-1]) * count
    assert len(images.train) + len(images.validation) == held and len(images.test) == count


def test_cifar_pickle_runs_no_code(tmp_path):
    place = tmp_path / "cifar-100-python"
    place.mkdir()
    for file in ("train", "test", "meta"):
        (place / file).write_bytes(pickle.dumps(SimpleNamespace(a=1)))
    with pytest.raises(UserError, match="cannot be read"):
        image_set.load(str(tmp_path))


def test_damaged_image_is_named_or_left_out(folders):
    broken = folders / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    images = image_set.load(str(folders), size=16)
    with pytest.raises(
        UserError, match=r"3.png cannot be read: .*--skip-bad.* \(1 of the \d+ images cannot be read\)"
    ):
        for part in (images.train, images.validation, images.test):
            for row in range(len(part)):
                part[row]
    images = image_set.load(str(folders), size=16, skip_bad=True)
    assert [name.rpartition("/")[2] for name in images.bad] == ["3.png"]
    assert sum(len(part) for part in (images.train, images.validation, images.test)) == 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", "or a folder of images"),
        ("empty", "two or more classes"),
        ("one", "no validation image of light"),
    ],
)
def test_bad_folders(folders, tmp_path, change, message):
    data = str(folders)
    if change == "nothing":
        data = str(tmp_path / "nowhere")
    elif change == "empty":
        data = str(tmp_path / "empty")
        (tmp_path / "empty").mkdir()
    else:
        for number in range(1, 10):
            (folders / "light" / f"{number}.png").unlink()
    with pytest.raises(UserError, match=message):
        image_set.load(data, size=16)


def test_crop_moves_by_whole_pixels_and_fills_with_black():
    torch.manual_seed(0)
    images = torch.rand(6, 2, 16, 16) + 1
    black = torch.tensor([-3.0, -4.0])
    moved = augment.Crop(black)(images)
    assert moved.shape == images.shape
    for image, result in zip(images, moved, strict=True):
        inside = result[0] > 0
        assert torch.isin(result[0][inside], image[0]).all() and (result[0][~inside] == -3).all()
        assert (result[1][~inside] == -4).all()


# ---- Networks --------------------------------------------------------------------------------------------


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


# ---- Options, study --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "values"),
    [("steps", {0: 0.25, 3: 1.0, 62: 1.0, 63: 0.1, 75: 0.01, 99: 0.001}), ("constant", {3: 1, 99: 1}),
     ("cosine", {0: 0.25, 3: 1.0, 51: 0.5081})],
)  # fmt: skip
def test_learning_rates(schedule, values):
    factor = Factor(schedule, 100, 3, (0.625, 0.75, 0.875))
    assert {step: round(factor(step), 4) for step in values} == pytest.approx(values, abs=1e-3)


def test_lamb_and_random_augmentation_of_files(folders):
    """The pieces of ScaleKD's advanced setting: timm's LAMB, RandAugment with erasing."""
    made = ImageOptions(optimizer="lamb", schedule="cosine").optimize()([nn.Parameter(torch.ones(3))], 10)
    assert type(made["optimizer"]).__name__ == "Lamb"
    torch.manual_seed(0)
    images = image_set.load(str(folders), size=16, kind="rand-m7")
    first, second = images.train[0][0], images.train[0][0]
    assert first.shape == (3, 16, 16) and first.dtype == torch.float32 and not torch.equal(first, second)
    with pytest.raises(UserError, match="--channels 3 is needed"):
        image_set.load(str(folders), size=16, kind="rand-m7", channels=1)
    with pytest.raises(UserError, match="is for images from files"):
        image_set.load("digits", kind="rand-m9")


@pytest.mark.parametrize(
    ("given", "message"),
    [({"label_share": 0}, "--label-share"), ({"validation_share": 1.0}, "--validation-share"),
     ({"lr": 0}, "--lr"), ({"teacher_epochs": -1}, "--teacher-epochs"),
     ({"teacher_cache": "x"}, "--augment none")],
)  # fmt: skip
def test_bad_options(given, message):
    with pytest.raises(ValueError, match=message):
        ImageOptions(**given)


def build(student, teacher, rows):
    kl = kdfast.Term(kdfast.nn.KLDivLoss(temperature=4.0), name="kl")
    return kdfast.Distiller(student, teacher, terms=[kl], task_loss=nn.CrossEntropyLoss())


def small(**given) -> ImageOptions:
    few = {"data": "digits", "teacher": "cifar_resnet8", "teacher_epochs": 1, "epochs": 1, "label_share": 0.1}
    return ImageOptions(**few | {"device": "cpu", "progress": "none", "threads": 1} | given)


def study(tmp_path, name="run", **given) -> Study:
    options = small(**given)
    out = RunFolder.create(tmp_path / name, {"recipe": "test"} | dataclasses.asdict(options))
    made = Study("test", options, out)
    made.teacher()
    return made


def test_study_trains_tests_and_reports(tmp_path):
    made = study(tmp_path, seeds=2)
    made.compare({"kl": build})
    assert {name: len(scores) for name, scores in made.scores.items()} == {
        "teacher": 1,
        "student": 2,
        "kl": 2,
    }
    made.report("Test", plain={}).write(made.out)
    page = (made.out.path / "report.html").read_text()
    assert "126 of the labels (10%)" in page and "plain PyTorch" in page
    lines = [json.loads(line) for line in (made.out.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["teacher", "student-0", "kl-0", "student-1", "kl-1"]
    assert {"data", "teacher", "student", "loss", "augment"} <= set(lines[2]["ms"])


def test_written_student_is_a_teacher_for_the_next_run(tmp_path):
    first = study(tmp_path, baseline=False)
    first.compare({"kl": build})
    file = first.out.path / "student.safetensors"
    second = study(tmp_path, "second", teacher=str(file), teacher_epochs=0)
    assert second.scores["teacher"] == first.scores["kl"]
    state = safetensors.torch.load_file(file)
    assert all(
        torch.equal(value, state[key]) for key, value in second.networks["teacher"].state_dict().items()
    )


def test_fresh_teacher_needs_epochs(tmp_path):
    with pytest.raises(UserError, match="fresh weights"):
        study(tmp_path, teacher_epochs=0)


def test_cached_teacher_gives_the_same_student(tmp_path):
    """Replayed outputs are the teacher's: same losses as with the teacher in the loop, up to rounding."""
    found = []
    for name, cache in (("plain", ""), ("cold", str(tmp_path / "cache")), ("warm", str(tmp_path / "cache"))):
        made = study(tmp_path, name, augment="none", baseline=False, teacher_cache=cache)
        made.compare({"kl": build})
        found.append(made.out.records("kl-0")[0])
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
    assert found[2]["loss"] == found[1]["loss"]
    assert "teacher" in found[0]["ms"] and "teacher" not in found[1]["ms"]


def test_unknown_recipe_option_is_one_line(capsys):
    assert main(["distill", "kd", "--label-share", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
