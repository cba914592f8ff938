"""Batches of labelled, then unlabelled images; the labels of the latter are never handed out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kdfast.recipes.common.loaders import EpochData
from kdfast.recipes.common.seeds import derive
from kdfast.recipes.dho.losses import UNLABELED


class PartlyLabeled(Dataset):
    """(image, label or UNLABELED, row) of the rows `labeled`, then of the rows `unlabeled`, of a dataset."""

    def __init__(self, dataset: Dataset, labeled: Sequence[int], unlabeled: Sequence[int]) -> None:
        self._dataset = dataset
        self._rows = [*labeled, *unlabeled]
        self._labeled = len(labeled)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        row = self._rows[index]
        image, label = self._dataset[row]
        return image, label if index < self._labeled else UNLABELED, row


class PairBatches(Sampler):
    """Index lists [labelled...; unlabelled...], shuffled anew each epoch, shared out over processes.

    An epoch is one pass over the larger set ("unlabeled") while the other is cycled, or ends with the shorter
    one ("shorter"). Without unlabelled rows it is one pass over the labelled ones. Each set is drawn from its
    own generator, so that the labelled half is the same with and without the other.

    Args:
        counts: of labelled and unlabelled samples, labelled first in the dataset.
        sizes: of each half of a batch, for each process.
        labels_only: leave out the unlabelled halves, and nothing else.
    """

    def __init__(
        self,
        counts: tuple[int, int],
        sizes: tuple[int, int],
        *,
        pass_over: str = "unlabeled",
        labels_only: bool = False,
        world: int = 1,
        rank: int = 0,
        seed: int = 0,
    ) -> None:
        self.counts, self.sizes, self.world, self.rank, self.seed = counts, sizes, world, rank, seed
        self.labels_only = labels_only
        self.sampler = self  # where Lightning looks for set_epoch
        self.workers = torch.Generator()  # the loader draws its workers' seeds from here
        self.pass_over = pass_over
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.workers.manual_seed(derive(self.seed, self.rank, epoch))

    def __len__(self) -> int:
        halves = zip(self.counts, self.sizes, strict=True)
        passes = [-(-count // (size * self.world)) for count, size in halves if count]
        return min(passes) if self.pass_over == "shorter" else passes[-1]

    def __iter__(self) -> Iterator[list[int]]:
        streams = [self._stream(half) for half in (0, 1)]
        for _ in range(len(self)):
            yield [index for stream in streams for index in next(stream)]

    def _stream(self, half: int) -> Iterator[list[int]]:
        """Lists of this process's size, for ever: permutations one after the other."""
        count, size = self.counts[half], self.sizes[half]
        first = 0 if half == 0 else self.counts[0]
        draw = np.random.default_rng(derive(self.seed, self.epoch, half))
        waiting: list[int] = []
        while True:
            if not count or (half and self.labels_only):
                yield []
                continue
            while len(waiting) < size * self.world:
                waiting += [first + int(i) for i in draw.permutation(count)]
            taken, waiting = waiting[: size * self.world], waiting[size * self.world :]
            yield taken[self.rank * size : (self.rank + 1) * size]


class PairData(EpochData):
    """Loaders of a stage that trains on labelled and unlabelled rows; see PairBatches.

    batch_size: of each half, for each process; the labelled half takes at most all labelled rows.

    labels_only: for a student alone, which gets the same labelled batches in as many steps.
    """

    def __init__(
        self,
        train: Dataset,
        validation: Dataset,
        *,
        labeled: Sequence[int],
        unlabeled: Sequence[int],
        batch_size: int,
        pass_over: str = "unlabeled",
        labels_only: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__(
            PartlyLabeled(train, labeled, unlabeled), validation, batch_size=batch_size, workers=workers
        )
        self._counts = (len(labeled), len(unlabeled))
        self._sizes = (min(batch_size, len(labeled)), batch_size)
        self._how = {"pass_over": pass_over, "labels_only": labels_only}

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        batches = PairBatches(
            self._counts, self._sizes, **self._how,
            world=trainer.world_size, rank=trainer.global_rank, seed=self._seed,
        )  # fmt: skip
        batches.set_epoch(self._first)
        return DataLoader(
            self.train,
            batch_sampler=batches,
            generator=batches.workers,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            num_workers=self._loader["num_workers"],
        )
