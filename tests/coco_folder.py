"""A small COCO folder with boxes and masks, and a run that stops half-way: for the recipes' tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from kdfast.recipes.common.callbacks import SaveEpochs

CLASSES = ("disc", "bar", "cross")
COLORS = ((220, 40, 40), (40, 200, 60), (60, 80, 230))


def write(folder: Path, *, images: int = 6, size: tuple[int, int] = (64, 48), seed: int = 0) -> Path:
    """`images` pictures in each part, with one object of each class but in every third, which has none of
    the last class. Objects are rectangles of their class's colour; their polygon is their outline."""
    generator = np.random.default_rng(seed)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    for part in ("train", "val", "test"):
        content = {"images": [], "annotations": [], "categories": categories}
        for number in range(images):
            name = f"{part}{number}.png"
            pixels = generator.integers(100, 140, (size[1], size[0], 3), dtype=np.uint8)
            content["images"].append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
            for label in range(len(CLASSES) - (number % 3 == 2)):
                x, y = (int(generator.integers(1, side - 21)) for side in size)
                w, h = 12 + 4 * (label != 1), 12 + 4 * (label != 0)
                pixels[y : y + h, x : x + w] = COLORS[label]
                outline = [x, y, x + w, y, x + w, y + h, x, y + h]
                content["annotations"].append(
                    {"id": len(content["annotations"]), "image_id": number, "category_id": label + 1,
                     "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "segmentation": [outline]}
                )  # fmt: skip
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / "images" / name)
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{part}.json").write_text(json.dumps(content))
    return folder


def as_voc(folder: Path) -> Path:
    """The same pictures with VOC's annotations."""
    source = write(folder / "coco")
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    (source / "images").rename(folder / "JPEGImages")
    for part in ("train", "val", "test"):
        names = []
        for path, objects in _objects(source, part):
            text = "".join(
                f"<object><name>{CLASSES[label]}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for label, (x, y, w, h) in objects
            )
            (folder / "Annotations" / f"{path.stem}.xml").write_text(f"<annotation>{text}</annotation>")
            names.append(path.stem)
        (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names))
    return folder


def as_kitti(folder: Path) -> Path:
    """The same pictures, 18 of them, with KITTI's labels."""
    source, labels = write(folder / "coco"), folder / "training" / "label_2"
    labels.mkdir(parents=True)
    (source / "images").rename(folder / "training" / "image_2")
    for part in ("train", "val", "test"):
        for path, objects in _objects(source, part):
            lines = [
                f"{('Car', 'Pedestrian', 'Cyclist')[label]} 0 0 0 {x} {y} {x + w} {y + h} 1 1 1 1 1 1 0"
                for label, (x, y, w, h) in objects
            ]
            (labels / f"{path.stem}.txt").write_text("\n".join(lines))
    return folder


def as_coco2017(folder: Path) -> Path:
    """The same pictures named as COCO 2017 names them; it has no test part."""
    write(folder)
    for part in ("train", "val"):
        source = folder / "annotations" / f"{part}.json"
        source.rename(source.with_name(f"instances_{part}2017.json"))
        (folder / f"{part}2017").mkdir()
        for path in (folder / "images").glob(f"{part}*.png"):
            path.rename(folder / f"{part}2017" / path.name)
    (folder / "annotations" / "test.json").unlink()
    return folder


def as_pixels(folder: Path, layout: str) -> Path:
    """The same pictures with a class for each pixel, as Cityscapes or VOC has it."""
    source = write(folder / "coco")
    for part in ("train", "val"):
        names = []
        for path, objects in _objects(source, part):
            with Image.open(source / "images" / path) as picture:
                pixels = picture.copy()
            labels = np.zeros(pixels.size[::-1], np.uint8)
            for label, (x, y, w, h) in objects:
                labels[y : y + h, x : x + w] = (7, 26, 24)[label] if layout == "cityscapes" else label + 1
            names.append(path.stem)
            at = _LABELLED[layout]
            for image, place in ((pixels, at[0]), (Image.fromarray(labels), at[1])):
                target = folder / place.format(part=part, name=path.stem)
                target.parent.mkdir(parents=True, exist_ok=True)
                image.save(target)
        lists = folder / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text("\n".join(names))
    return folder


_LABELLED = {  # layout -> image and labels
    "cityscapes": (
        "leftImg8bit/{part}/ulm/{name}_leftImg8bit.png",
        "gtFine/{part}/ulm/{name}_gtFine_labelIds.png",
    ),
    "voc": ("JPEGImages/{name}.png", "SegmentationClass/{name}.png"),
}


def _objects(folder: Path, part: str) -> list[tuple[Path, list[tuple[int, list[int]]]]]:
    """File name -> (number of the class, box) of its objects."""
    content = json.loads((folder / "annotations" / f"{part}.json").read_text())
    return [
        (
            Path(image["file_name"]),
            [
                (each["category_id"] - 1, each["bbox"])
                for each in content["annotations"]
                if each["image_id"] == image["id"]
            ],
        )
        for image in content["images"]
    ]


def history(out: Path) -> list[dict]:
    """metrics.jsonl without what differs between two runs: the times."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("ms", "seconds")} for record in records]


def on_two_processes(arguments: list[str]) -> None:
    """`kdfast` with these arguments under torchrun, on two gloo processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "kdfast.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*launch, *arguments], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def interrupt_after(monkeypatch, stage: str) -> None:
    """As if Ctrl-C were pressed once the first epoch of `stage` has been saved."""
    save = SaveEpochs.on_train_epoch_end

    def stop(self, trainer, module):
        save(self, trainer, module)
        if self._path.stem == stage and trainer.current_epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(SaveEpochs, "on_train_epoch_end", stop)
