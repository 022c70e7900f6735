"""Batches by explicit position: where a training stands in its data, and how it goes on there.

A position is a count of batches. To resume, the indices of the batches before it are passed over,
no image of which is read: a million steps take about a second, whatever the sampler. What a random
transform draws depends on the run's seed and on the sample's position alone, so neither the number
of workers nor an interruption changes what a step sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, Dataset

from gdetkd.training.rng_state import preserved, seeded


class ResumableBatchSampler:
    """The batches of another batch sampler, every index with its position, from `start` on.

    Args:
        batches: Any batch sampler of this rank.
        endless: Go through it again when it ends, reshuffled, as training by iterations does.

    Attributes:
        start: How many batches the next pass leaves out; a pass sets it back to 0.
        epoch: Tells the positions of one pass from those of another.
    """

    def __init__(self, batches: Any, endless: bool) -> None:
        self.batches, self.endless = batches, endless
        self.start, self.epoch = 0, 0

    @property
    def sampler(self) -> Any:
        """The sampler of single indices, which MMEngine tells of epochs."""
        return getattr(self.batches, "sampler", None)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        start, self.start = self.start, 0
        rank, world = get_dist_info()
        first = 0  # samples of this rank before the batch
        for number, batch in enumerate(self._passes()):
            if number >= start:
                yield [
                    (index, (self.epoch, (first + place) * world + rank))
                    for place, index in enumerate(batch)
                ]
            first += len(batch)

    def _passes(self) -> Iterator[list[int]]:
        epoch = 0
        while True:
            yield from self.batches
            if not self.endless:
                return
            epoch += 1
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)


class SeededDataset(Dataset):
    """A data set read by (index, position); everything else is the data set's own."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.__dict__.update(dataset=dataset, seed=seed)

    def __getitem__(self, item: tuple[int, tuple[int, int]]) -> Any:
        index, position = item
        with seeded((self.seed, *position)):
            return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while it is unpickled in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)  # hooks change a data set's pipeline

    def __reduce__(self) -> tuple:
        return SeededDataset, (self.dataset, self.seed)


class ResumableLoader(DataLoader):
    """A data loader that starts at a position and leaves the global generators alone.

    Args:
        loader: The plain data loader, not yet iterated.
        seed: The run's.
        endless: As for `ResumableBatchSampler`.
    """

    def __init__(self, loader: DataLoader, seed: int, endless: bool) -> None:
        workers = {}
        if loader.num_workers:
            workers = dict(
                prefetch_factor=loader.prefetch_factor,
                persistent_workers=loader.persistent_workers,
                multiprocessing_context=loader.multiprocessing_context,
                timeout=loader.timeout,
            )
        super().__init__(
            SeededDataset(loader.dataset, seed),
            batch_sampler=ResumableBatchSampler(loader.batch_sampler, endless),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            **workers,
        )

    def __iter__(self) -> Iterator[Any]:
        # A plain loader draws the seed of its workers here; the student's initial weights and its
        # sampled boxes, which the same generator gives, stay those of plain MMDetection.
        torch.empty((), dtype=torch.int64).random_()
        return self._from_start()

    def _from_start(self) -> Iterator[Any]:
        # Runs at the first `next`: until then the position may be set and nothing is read.
        with preserved():
            batches = super().__iter__()
        yield from batches
