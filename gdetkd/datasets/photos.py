"""'photos', the embedded benchmark of photographs: cut-outs blended into other photographs.

The cut-outs are those of Tux Paint's stamps, which Debian packages and which are read where they
are installed: they are GPL-2 and not part of this package. What is behind them are photographs of
the `scikit-image` wheel. No cut-out is in two splits, nor are two of one kind (two apples, the same
horse from its other side), so a detector is measured on objects that it has not seen.

As in `digits`, boxes and masks follow from integer arithmetic and seeded draws alone.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from gdetkd.datasets.embedded import (
    Draw,
    EmbeddedBenchmark,
    Placed,
    crop,
    generator,
    load_photos,
)

STAMPS = "/usr/share/tuxpaint/stamps"  # of Debian's package
PACKAGE = "tuxpaint-stamps-default"
FOLDERS = {
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "fish": ("animals/fish",),
    "insect": ("animals/insects",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "vehicle": ("vehicles", "military/vehicles"),
    "tool": ("household",),
    "instrument": ("hobbies/music",),
}
CLASSES = tuple(FOLDERS)
# Folders and names of drawings and toys.
NO_PHOTOGRAPHS = {"cartoon", "toys", "plastic", "echidna", "hedgehog", "rubberduck"}
IMAGE_SIZE = 256
SPLITS = {"train": 3000, "val": 500, "test": 1000}
HELD_OUT = 0.2  # of the cut-outs of a class, for val and again for test
# Those of the wheel's photographs that show nothing of the ten classes.
PHOTOS = ("coffee", "coins", "retina", "ihc", "hubble_deep_field", "brick", "grass", "gravel",
          "camera", "moon", "clock_motion")  # fmt: skip
SIDES = (32, 38, 45, 54, 64, 76, 91, 108, 128, 152, 181)  # longer side of an object, px
LARGEST = max(SIDES)
MARGIN = 4  # px that soft edges reach beyond an object


@dataclass(frozen=True)
class CutOut:
    """A photographed object: `pixels` (h, w, 3) float32 BGR, premultiplied by `alpha` (h, w, 1) in
    [0, 1], at most `LARGEST` px a side; `shape` (H, W) bool is where it is, as in its file."""

    name: str
    label: int
    pixels: np.ndarray
    alpha: np.ndarray
    shape: np.ndarray


@dataclass(frozen=True)
class Photographed:
    """A cut-out of an image: its number, its corner and size in px, whether it is mirrored."""

    cut_out: int
    corner: tuple[int, int]
    size: tuple[int, int]
    mirrored: bool


def build_photos(
    root: str | os.PathLike,
    seed: int = 0,
    splits: Mapping[str, int] | None = None,
    progress: Callable[[Iterable, str], Iterable] = lambda items, _: items,
    force: bool = False,
    stamps: str | os.PathLike = STAMPS,
) -> dict:
    """Write the benchmark below `root` and return its manifest: `EmbeddedBenchmark.build`.

    Args:
        stamps: Folder of Debian's stamps, where they are elsewhere.

    Raises:
        FileNotFoundError: The stamps are not there; the message says how to install them.
    """
    benchmark = EmbeddedBenchmark(
        "photos",
        CLASSES,
        IMAGE_SIZE,
        generator=1,
        start=functools.partial(_start, Path(stamps)),
        info=dict(
            description="photos: cut-outs of Tux Paint's stamps blended into photographs. The "
            "images contain parts of the stamps, which are under the GPL-2; do not pass them on "
            "under other terms."
        ),
        licenses=(
            dict(id=1, name="GPL-2", url="https://www.gnu.org/licenses/old-licenses/gpl-2.0.html"),
        ),
    )
    return benchmark.build(root, seed, SPLITS if splits is None else splits, progress, force)


def _start(stamps: Path, seed: int) -> tuple[Draw, dict[str, Any]]:
    files = find_stamps(stamps)
    cut_outs = [load_cut_out(path, label) for label, path in files]
    by_split, photos = split_cut_outs(cut_outs, seed), load_photos(PHOTOS)

    def draw(split: str, index: int) -> tuple[np.ndarray, list[Placed]]:
        objects, masks = place(seed, split, index, cut_outs, by_split[split])
        image = render(seed, split, index, objects, cut_outs, photos)
        return image, [
            Placed(cut_outs[each.cut_out].label, _extent(mask), int(mask.sum()), mask)
            for each, mask in zip(objects, masks, strict=True)
        ]

    digest = hashlib.sha256(b"".join(path.read_bytes() for _, path in files))
    return draw, dict(
        cut_outs=f"{len(files)} photographs of Debian's {PACKAGE} (Tux Paint, GPL-2)",
        cut_outs_sha256=digest.hexdigest(),
        cut_outs_by_split={
            split: sorted(
                f"{CLASSES[label]}/{cut_outs[number].name}"
                for label, numbers in enumerate(by_class)
                for number in numbers
            )
            for split, by_class in by_split.items()
        },
        photos=f"{', '.join(PHOTOS)} of scikit-image {version('scikit-image')}",
    )


def find_stamps(stamps: str | os.PathLike = STAMPS) -> list[tuple[int, Path]]:
    """The photographs among the stamps, each with its label, in the order of classes and names.

    Raises:
        FileNotFoundError: A class has less than one for each split.
    """
    found = []
    for label, (name, folders) in enumerate(FOLDERS.items()):
        paths = {path for folder in folders for path in (Path(stamps) / folder).rglob("*.png")}
        photographs = [
            path
            for path in sorted(paths)
            # A mirrored one is in the folder as it is already.
            if not {*path.relative_to(stamps).parts, path.stem} & NO_PHOTOGRAPHS
            and "mirror" not in path.stem
        ]
        if len({kind(path.stem) for path in photographs}) < len(SPLITS):
            raise FileNotFoundError(
                f"photos: expected the stamps of Debian's {PACKAGE} in {stamps}, found "
                f"{len(photographs)} photographs for {name!r} in {', '.join(folders)}; install "
                f"them with `apt-get install {PACKAGE}` (161 MB), or unpack the package with "
                "`dpkg -x FILE.deb FOLDER` and give --stamps FOLDER/usr/share/tuxpaint/stamps"
            )
        found += [(label, path) for path in photographs]
    return found


def kind(name: str) -> str:
    """What a stamp shows, by its name: 'apple' of apple_red, 'lion' of lion-2."""
    return re.split(r"[-_\d]", name)[0].lower()


def load_cut_out(path: Path, label: int) -> CutOut:
    """Read a PNG, cropped to where it is at least half opaque.

    Raises:
        ValueError: It has no transparent ground, or shows nothing.
    """
    with Image.open(path) as picture:  # OpenCV complains of these files' color profiles
        modes = picture.mode, "transparency" in picture.info
        read = np.asarray(picture.convert("RGBA"))[..., [2, 1, 0, 3]]
    if not (modes[0].endswith("A") or modes[1]) or not (read[..., 3] > 127).any():
        raise ValueError(
            f"{path}: expected an object on transparent ground, got a picture of mode {modes[0]} "
            f"with {(read[..., 3] > 127).mean():.0%} of it opaque; reinstall {PACKAGE}"
        )
    x, y, w, h = _extent(read[..., 3] > 127)
    read = read[y : y + h, x : x + w]
    side = max(w, h)
    alpha = read[..., 3:].astype(np.float32) / 255
    both = np.concatenate([read[..., :3] * alpha, alpha], axis=2)
    if side > LARGEST:
        size = (max(1, w * LARGEST // side), max(1, h * LARGEST // side))
        both = cv2.resize(both, size, interpolation=cv2.INTER_AREA)
    return CutOut(path.stem, label, both[..., :3], both[..., 3:], read[..., 3] > 127)


def split_cut_outs(cut_outs: list[CutOut], seed: int) -> dict[str, list[list[int]]]:
    """By split and class the numbers of the cut-outs; those of one kind are in one split."""
    found: dict[str, list[list[int]]] = {split: [[] for _ in CLASSES] for split in SPLITS}
    for label in range(len(CLASSES)):
        kinds: dict[str, list[int]] = {}
        for number, each in enumerate(cut_outs):
            if each.label == label:
                kinds.setdefault(kind(each.name), []).append(number)
        order = np.random.default_rng([seed, label]).permutation(len(kinds))
        groups = [list(kinds.values())[i] for i in order]
        # The largest are to learn from: five apples say little about fruit in general.
        groups.sort(key=len)
        wanted = max(2, int(HELD_OUT * sum(map(len, groups))))
        for split in ("test", "val"):
            while len(found[split][label]) < wanted and len(groups) > (2 if split == "test" else 1):
                found[split][label] += groups.pop(0)
        found["train"][label] = sum(groups, [])
    return found


def place(
    seed: int, split: str, index: int, cut_outs: list[CutOut], by_class: list[list[int]]
) -> tuple[list[Photographed], list[np.ndarray]]:
    """Which objects stand where in an image, back to front (1 to 5), and what is seen of each.

    Up to a fifth of a side is beyond the border; three fifths of every object are seen. The masks
    (256, 256) bool have no pixel in common.
    """
    random = generator(seed, split, index, 0)
    objects: list[Photographed] = []
    seen: list[np.ndarray] = []
    sizes: list[int] = []
    for _ in range(int(random.integers(1, 6))):
        choice = by_class[int(random.integers(len(CLASSES)))]
        number = choice[int(random.integers(len(choice)))]
        shape = cut_outs[number].shape
        side, longer = SIDES[int(random.integers(len(SIDES)))], max(shape.shape)
        h, w = (max(6, pixels * side // longer) for pixels in shape.shape)
        mirrored = bool(random.integers(2))
        for _ in range(20):
            x = int(random.integers(-w // 5, IMAGE_SIZE - w + w // 5 + 1))
            y = int(random.integers(-h // 5, IMAGE_SIZE - h + h // 5 + 1))
            candidate = Photographed(number, (x, y), (w, h), mirrored)
            mask, whole = _mask(candidate, shape)
            left = [*(other & ~mask for other in seen), mask]
            if all(
                5 * int(part.sum()) >= 3 * size
                for part, size in zip(left, [*sizes, whole], strict=True)
            ):
                objects.append(candidate)
                seen, sizes = left, [*sizes, whole]
                break
    return objects, seen


def _mask(each: Photographed, shape: np.ndarray) -> tuple[np.ndarray, int]:
    """Where it is in the image, and how many pixels it has with those beyond the border."""
    w, h = each.size
    rows = np.arange(h) * shape.shape[0] // h
    columns = np.arange(w) * shape.shape[1] // w
    scaled = shape[rows[:, None], columns[:: -1 if each.mirrored else 1]]
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    inside, cropped = _window(each)
    mask[inside] = scaled[cropped]
    return mask, max(1, int(scaled.sum()))


def _window(each: Photographed, margin: int = 0) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns that it covers with a margin around it: of the image, and of itself."""
    inside, cropped = [], []
    for corner, length in zip(each.corner[::-1], each.size[::-1], strict=True):
        start, end = corner - margin, corner + length + margin
        first, last = max(start, 0), min(end, IMAGE_SIZE)
        inside.append(slice(first, last))
        cropped.append(slice(first - start, last - start))
    return tuple(inside), tuple(cropped)


def render(
    seed: int, split: str, index: int, objects: list[Photographed], cut_outs: list[CutOut],
    photos: list[np.ndarray],
) -> np.ndarray:  # fmt: skip
    """Blend the objects into a crop of a photograph: (256, 256, 3) uint8 BGR.

    Each has a light of its own (0.6 to 1.3, a tint, a gradient across it) and soft edges (0.4 to
    1.2 px, one sigma); then all is lit together, and noise of 1 to 6 levels added.
    """
    random = generator(seed, split, index, 1)
    image = crop(random, photos, 128, IMAGE_SIZE)
    for each in objects:
        cut_out, (inside, cropped) = cut_outs[each.cut_out], _window(each, MARGIN)
        both = [
            cv2.resize(part, each.size, interpolation=cv2.INTER_AREA).reshape(*each.size[::-1], -1)
            for part in (cut_out.pixels, cut_out.alpha)
        ]
        layers = np.concatenate(both, 2)[:, :: -1 if each.mirrored else 1]
        layers = np.pad(layers, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        layers = cv2.GaussianBlur(layers, (0, 0), random.uniform(0.4, 1.2))
        pixels, alpha = layers[..., :3], layers[..., 3:]
        slope = np.linspace(-1, 1, layers.shape[1])[:, None] * random.uniform(-0.2, 0.2)
        light = random.uniform(0.6, 1.3) * random.uniform(0.93, 1.07, 3) * (1 + slope)
        lit = np.minimum(pixels * light, 255 * alpha)
        image[inside] += lit[cropped] - alpha[cropped] * image[inside]
    image *= random.uniform(0.75, 1.15)
    image += random.normal(0, random.uniform(1, 6), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x, y, w, h) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        int(columns[0]), int(rows[0]),
        int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1,
    )  # fmt: skip
