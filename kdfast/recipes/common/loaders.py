"""Loaders whose order and worker seeds depend on the seed and the epoch only, shared out over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from kdfast.recipes.common.errors import UserError
from kdfast.recipes.common.seeds import derive


class EpochSampler(DistributedSampler):
    """torch's DistributedSampler, also for one process, that seeds its loader's workers anew each epoch."""

    def __init__(self, dataset: Dataset, world: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas=world, rank=rank, shuffle=True, seed=seed)
        self.workers = torch.Generator()  # the loader draws its workers' seeds from here

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self.workers.manual_seed(derive(self.seed, self.rank, epoch))


class EpochData(LightningDataModule):
    """Training and validation samples of a stage.

    Training samples are shuffled and shared out over the processes; where their number does not divide, some
    are seen twice an epoch. Every validation sample is seen by exactly one process: log sums or use
    torchmetrics.

    Args:
        train, validation: map-style datasets.
        batch_size: of each process.
        workers: loading processes of each process.
        collate: as DataLoader's collate_fn.
        drop_last: leave out the last, smaller training batch.
    """

    def __init__(
        self,
        train: Dataset,
        validation: Dataset,
        *,
        batch_size: int,
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self._loader = {"batch_size": batch_size, "num_workers": workers, "collate_fn": collate}
        self._drop_last = drop_last
        self._seed, self._first = 0, 0

    def begin(self, seed: int, epoch: int) -> None:
        """Set where the stage starts: Lightning makes its first iterator before it tells the epoch."""
        self._seed, self._first = seed, epoch

    def train_dataloader(self) -> DataLoader:
        sampler = EpochSampler(self.train, self.trainer.world_size, self.trainer.global_rank, self._seed)
        sampler.set_epoch(self._first)
        pinned = self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            self.train,
            sampler=sampler,
            generator=sampler.workers,
            drop_last=self._drop_last,
            pin_memory=pinned,
            **self._loader,
        )

    def val_dataloader(self) -> DataLoader:
        mine = range(self.trainer.global_rank, len(self.validation), self.trainer.world_size)
        return DataLoader(Subset(self.validation, mine), generator=torch.Generator(), **self._loader)


class Readable(Dataset):
    """The samples of `dataset` that can be read. Wrap user data in it for `--skip-bad`.

    Without `skip_bad` the first sample that cannot be read raises UserError naming it. With `skip_bad` every
    sample is tried once, at construction, and `bad` lists the names of those left out.

    Args:
        dataset: map-style.
        name: sample number -> what the person calls it, a path for instance.
        skip_bad: leave them out instead of stopping.
    """

    def __init__(self, dataset: Dataset, name: Callable[[int], str], *, skip_bad: bool = False) -> None:
        self.dataset, self._name = dataset, name
        self.bad: list[str] = []
        self._rows = list(self._good()) if skip_bad else list(range(len(dataset)))

    def _good(self) -> Iterator[int]:
        for row in range(len(self.dataset)):
            try:
                self.dataset[row]
            except Exception:  # a decoder may raise anything
                self.bad.append(self._name(row))
            else:
                yield row

    def row(self, index: int) -> int:
        """The number in `dataset` of sample `index`."""
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        row = self._rows[index]
        try:
            return self.dataset[row]
        except Exception as error:
            raise UserError(f"{self._name(row)} cannot be read: {error}; --skip-bad leaves it out") from error
