"""Data of the recipes for images: built-in sets, CIFAR's files, folders, damaged images, augmentation."""

import io
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdfast.recipes.common import augment, builtin_images, image_set
from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.image_options import ImageOptions


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


def test_digits_are_split_by_class_and_normalised():
    images = image_set.load("digits")
    assert [len(part) for part in (images.train, images.validation, images.test)] == [1258, 180, 359]
    rows = [set(part.indices) for part in (images.train, images.validation, images.test)]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    pixels = torch.stack([images.plain_train[row][0] for row in range(len(images.train))])
    assert pixels.mean().abs() < 1e-5 and abs(pixels.std() - 1) < 1e-3
    assert isinstance(images.augment, nn.Module)
    assert images.labels.tolist() == [label for _, label in images.train]


def test_stamps_stand_on_white_squares(monkeypatch):
    def stamp(mode, size, colour):
        buffer = io.BytesIO()
        Image.new(mode, size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    root = "usr/share/tuxpaint/stamps/"
    files = {
        root + "animals/fish/perch.png": stamp("RGBA", (40, 20), (255, 0, 0, 255)),
        root + "vehicles/auto/car.png": stamp("RGBA", (10, 10), (0, 0, 0, 0)),
        root + "vehicles/auto/car_mirror.png": b"",
        root + "animals/fish/perch.txt": b"",
    }

    def fetch(name, version, digest, wanted):
        return {path: content for path, content in files.items() if wanted(path)}

    monkeypatch.setattr(builtin_images, "fetch_debian", fetch)
    arrays = builtin_images.load("stamps", 20)
    assert arrays.images.shape == (2, 3, 20, 20)
    assert [arrays.classes[label] for label in arrays.labels] == ["fish", "vehicle"]
    fish, car = arrays.images
    assert (car == 255).all() and fish[:, 10, 10].tolist() == [255, 0, 0] and (fish[:, 0] == 255).all()


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
