"""The memory queue: teacher representations of earlier batches, kept as extra negatives.

Supplement B and Table 1. The paper's K counts the gathered batch too, so a queue for it has room
for K less the rows that all ranks bring at a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """First in, first out: the last ``capacity`` rows of width ``dim`` that were enqueued.

    A ring written in place; a step copies the new rows and nothing else. Row number ``g`` of all
    that ever came lies at ``g % capacity``, hence two buffers say everything and travel with
    ``state_dict``, ``.to()``, ``deepcopy``, DDP's broadcast and an EMA's copy:

    - ``storage`` (capacity, dim): the rows, as given (nothing is normalized here), cast to the
      buffer's dtype and cut from the graph. ``.half()`` and the like apply to it.
    - ``enqueued`` (): int64, how many rows came so far. Being an integer it is copied, never
      averaged, by an EMA.

    ``enqueued`` lives on the device, and reading it there would make the CPU wait at every step;
    so a plain int mirrors it, and it is read again only after someone else wrote it (a loaded
    checkpoint, a broadcast). An EMA writes past PyTorch's version counter: the queue of its copy
    saves and loads as copied, but ``len`` there may lag. One that averages float buffers too mixes
    the rows of its copy: harmless, for training goes on with the trained model's queue.

    Ranks keep equal queues by enqueueing the same rows in the same order.

    Raises:
        ValueError: a negative capacity, a width below 1, rows of another width.
        RuntimeError: from ``load_state_dict``, a checkpoint of another capacity or width.
    """

    def __init__(self, capacity: int, dim: int) -> None:
        super().__init__()
        if capacity < 0 or dim < 1:
            raise ValueError(f"expected capacity >= 0 and dim >= 1, got {capacity} and {dim}")
        self.capacity = capacity
        self.dim = dim
        self.register_buffer("storage", torch.zeros(capacity, dim))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.int64))
        self._count = 0  # the mirror of `enqueued` ...
        self._mirrored: tuple[int, int] | None = None  # ... and what it was a mirror of
        self._undo: tuple[int, int, Tensor] | None = None  # count before, place, rows replaced

    @torch.no_grad()
    def enqueue(self, rows: Tensor) -> None:
        """Store rows (n, dim), any n, the last one newest; the oldest make room."""
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"expected rows of shape (n, {self.dim}), got {tuple(rows.shape)}")
        before = self._total()
        count, start = before + len(rows), 0
        replaced = rows[:0]
        if self.capacity:
            rows = rows.detach()[-self.capacity :]  # what comes before would be overwritten
            start = (count - len(rows)) % self.capacity
            replaced = self._write(start, rows)
        self._undo = before, start, replaced
        self._set(count)

    @torch.no_grad()
    def undo(self) -> None:
        """Take the last enqueue back: the rows it overwrote return. Nothing if there is none."""
        if self._undo is not None:
            count, start, replaced = self._undo
            self._write(start, replaced)
            self._undo = None
            self._set(count)

    def _write(self, start: int, rows: Tensor) -> Tensor:
        """Put rows (n <= capacity, dim) into the ring; a copy of what they replace."""
        head = min(len(rows), self.capacity - start)
        parts = (self.storage[start : start + head], self.storage[: len(rows) - head])
        replaced = torch.cat(parts)
        for part, new in zip(parts, rows.tensor_split([head]), strict=True):
            part.copy_(new)
        return replaced

    def _set(self, count: int) -> None:
        self.enqueued.fill_(count)
        self._remember(count)

    def __len__(self) -> int:
        return min(self._total(), self.capacity)

    @property
    def rows(self) -> Tensor:
        """The filled rows (filled, dim) in storage order: a view, so the next enqueue changes it.

        The order of negatives does not matter to ``contrastive_loss``, which reads them in its
        forward pass only.
        """
        return self.storage[: len(self)]

    @property
    def features(self) -> Tensor:
        """A copy of the filled rows (filled, dim), oldest first."""
        oldest = self._total() % self.capacity if len(self) and len(self) == self.capacity else 0
        return torch.roll(self.rows, -oldest, dims=0)

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}, dim={self.dim}"

    def _total(self) -> int:
        if self._mirrored != (id(self.enqueued), self.enqueued._version):
            self._remember(int(self.enqueued))
        return self._count

    def _remember(self, count: int) -> None:
        self._count = count
        self._mirrored = (id(self.enqueued), self.enqueued._version)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        saved = state_dict.get(prefix + "storage")
        if saved is not None and saved.shape != self.storage.shape:
            error_msgs.append(
                f"{prefix or 'the queue: '}the checkpoint's queue has capacity and width "
                f"{tuple(saved.shape)}, this one {tuple(self.storage.shape)}"
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._mirrored = self._undo = None
