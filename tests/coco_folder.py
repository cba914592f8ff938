"""A small COCO folder with boxes and masks, and a run that stops half-way: for the recipes' tests."""

import json
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


def history(out: Path) -> list[dict]:
    """metrics.jsonl without what differs between two runs: the times."""
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in ("ms", "seconds")} for record in records]


def interrupt_after(monkeypatch, stage: str) -> None:
    """As if Ctrl-C were pressed once the first epoch of `stage` has been saved."""
    save = SaveEpochs.on_train_epoch_end

    def stop(self, trainer, module):
        save(self, trainer, module)
        if self._path.stem == stage and trainer.current_epoch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(SaveEpochs, "on_train_epoch_end", stop)
