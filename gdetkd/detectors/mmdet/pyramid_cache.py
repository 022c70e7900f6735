"""A frozen teacher's pyramids, kept on disk by what the images are.

A teacher computes the same pyramid for the same pixels at every step, in every run and for every
student. Where nothing is augmented, an image comes back each epoch; where something is, its pixels
are others, and so is its name here: nothing wrong can be found.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gdetkd.losses.common import check_number
from gdetkd.ops.atomic_write import atomic_write


class PyramidCache:
    """Computes pyramids of images, or reads those that it, or another process, computed before.

    One file per image and teacher, in full precision, so that on one machine a training does not
    depend on what is in the folder: a batch of which an image is missing is computed as a whole, in
    the same shape as ever. Under autocast, and for images that are not float32, it only computes.
    On a GPU every step waits for a copy of its images; it is meant for the CPU.

    Args:
        teacher: Frozen.
        settings: What else its pyramids depend on: the config that it was built from, how it runs.
            With its weights they are part of a file's name.
        extract: Gives the teacher's pyramid for images (B, 3, H, W).
        folder: Where the files are; it may be shared by processes and removed at any time.
        megabytes: How large the folder may become, in 10^6 bytes; after that nothing is added.
        expected: How many images will come, where that is known: unless there is room for all of
            them nothing is kept, since a batch is only read if it is there as a whole.

    Attributes:
        hits, misses: Images so far.

    Raises:
        ValueError: megabytes is not a number above 0.
    """

    def __init__(
        self,
        teacher: nn.Module,
        settings: str,
        extract: Callable[[Tensor], Sequence[Tensor]],
        folder: str | Path,
        megabytes: float,
        expected: int = 0,
    ) -> None:
        check_number("teacher: cache: megabytes", megabytes, 0, above=True)
        self.extract, self.folder = extract, Path(folder) / _fingerprint(teacher, settings)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.room = int(megabytes * 1e6) - sum(map(_size, self.folder.parent.glob("*/*")))
        self.expected, self.limit = expected, megabytes * 1e6
        self.hits = self.misses = 0

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The levels (B, C, H, W) of a pyramid, contiguous, finest first."""
        if images.dtype != torch.float32 or torch.is_autocast_enabled(images.device.type):
            return tuple(self.extract(images))
        paths = [self.folder / _name(image) for image in images.detach().cpu().numpy()]
        found = [_read(path) for path in paths]
        if all(found):
            self.hits += len(images)
            return tuple(torch.stack(level).to(images.device) for level in zip(*found, strict=True))
        levels = tuple(level.contiguous() for level in self.extract(images))
        if self.misses == self.hits == 0:
            each = sum(level[0].numel() * level.element_size() for level in levels)
            self.room *= each * self.expected <= self.limit  # what is there already counts, too
        self.misses += len(images)
        for index, (path, known) in enumerate(zip(paths, found, strict=True)):
            if known is None and self.room > 0:
                try:
                    self.room -= _write(path, [level[index].cpu().numpy() for level in levels])
                except OSError:  # a full disk: what is there still helps
                    self.room = 0
        return levels


def _fingerprint(teacher: nn.Module, settings: str) -> str:
    digest = hashlib.blake2b(f"{torch.__version__} {settings}".encode(), digest_size=8)
    for name, value in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _name(image: np.ndarray) -> str:
    digest = hashlib.sha256(str(image.shape).encode())  # many CPUs have instructions for it
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()[:32]


def _write(path: Path, levels: list[np.ndarray]) -> int:
    """Shapes and a checksum in a first line, then the numbers; the size in bytes."""
    content = b"".join(level.tobytes() for level in levels)
    header = json.dumps([[level.shape for level in levels], zlib.crc32(content)]).encode() + b"\n"
    with atomic_write(path, durable=False) as file:
        file.write(header + content)
    return len(header) + len(content)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process has just renamed it
        return 0


def _read(path: Path) -> list[Tensor] | None:
    """The levels (C, H, W); None without a file, or with one that a crash has left damaged."""
    try:
        with open(path, "rb") as file:
            shapes, checksum = json.loads(file.readline())
            content = bytearray(os.fstat(file.fileno()).st_size - file.tell())
            file.readinto(content)
    except (FileNotFoundError, ValueError):
        return None
    if zlib.crc32(content) != checksum:
        return None
    numbers = torch.frombuffer(content, dtype=torch.float32)
    sizes = [int(np.prod(shape)) for shape in shapes]
    return [part.view(shape) for part, shape in zip(numbers.split(sizes), shapes, strict=True)]
