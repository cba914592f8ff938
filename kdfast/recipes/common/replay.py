"""The teacher's outputs computed once, in front of training, and replayed: `--teacher-cache`.

One pass in a fixed order fills the cache, so that a resumed run reads the numbers that the first one read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import kdfast
from kdfast.distill.term import paths_of
from kdfast.recipes.common.classify import Distilled


class WithRows(Dataset):
    """(image, label, row number) of a dataset of (image, label)."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[Tensor, int, int]:
        return (*self._dataset[row], row)


def teacher_outputs(
    distiller: kdfast.Distiller,
    dataset: Dataset,
    folder: str,
    *,
    view: str,
    batch_size: int,
    workers: int = 0,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """{teacher path: outputs [N, ...]} of all samples, from the cache in `folder` as far as it has them.

    dataset: of (image, label); its `indices`, if it has them, are the samples' names in the cache.
    view: what else the images depend on; outputs of another view are not taken.
    """
    paths = sorted({"", *(path for term in distiller.terms for path in paths_of(term.teacher))})
    teacher = distiller.teacher.to(device)
    dtype = next(teacher.parameters()).dtype
    cache = kdfast.TeacherCache(folder, teacher=teacher)
    tap = kdfast.FeatureTap(teacher, {path or "output": path for path in paths})
    first, parts = 0, []
    rows = getattr(dataset, "indices", range(len(dataset)))  # of the whole set, whatever part of it this is
    with cache, tap, torch.no_grad():
        for images, _ in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
            keys = [int(rows[first + i]) for i in range(len(images))]

            def compute(todo: list[int], images: Tensor = images) -> dict[str, Tensor]:
                features = tap(images[todo].to(device, dtype))[1]
                return {name: value.float() for name, value in features.items()}

            parts.append(cache.get_or_put(keys, compute, augmentation=f"{view}; {' '.join(paths)}"))
            first += len(images)
    return {path: torch.cat([part[path or "output"] for part in parts]) for path in paths}


class Replayed(Distilled):
    """A student under a Distiller whose teacher's outputs are known; batches carry row numbers."""

    def __init__(self, *arguments: Any, outputs: dict[str, Tensor], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._outputs = outputs

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        images, target, self._rows = batch
        return super().training_step((images, target), index)

    def timed_parts(self) -> dict[str, Any]:
        return {name: part for name, part in super().timed_parts().items() if name != "teacher"}

    def forward_distiller(self, images: Tensor, target: Tensor) -> Any:
        rows = self._rows.to("cpu")
        replay = {path: values[rows].to(images.device) for path, values in self._outputs.items()}
        return self.network(images, target=target, replay=replay)
