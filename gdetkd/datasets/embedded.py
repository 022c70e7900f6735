"""Benchmarks that are generated: written once, verified, and never over somebody's edits.

`digits` and `photos` say what an image shows; files, manifest and repair are here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from gdetkd.datasets.contact_sheet import contact_sheet

SPLITS = ("train", "val", "test")
SHOWN = 8  # images of each split on the contact sheet


class Placed(NamedTuple):
    """An object of an image: label from 0, box (x, y, w, h) in px, area in px, mask (h, w) bool."""

    label: int
    box: tuple[int, int, int, int]
    area: int
    mask: np.ndarray


Draw = Callable[[str, int], tuple[np.ndarray, list[Placed]]]  # split, index -> BGR image, objects


@dataclass(frozen=True)
class EmbeddedBenchmark:
    """A generated data set in COCO's format.

    Attributes:
        name: Of `gdetkd data NAME`.
        classes: Their names, in the order of the labels.
        image_size: Pixels of a side; images are square.
        generator: Raise it whenever the same seed would give other data.
        start: Loads the material; gives a function that draws an image of a seed, and the sources.
        info: COCO's `info`.
        licenses: COCO's `licenses`, if images have one.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    generator: int
    start: Callable[[int], tuple[Draw, dict[str, Any]]]
    info: Mapping[str, str]
    licenses: tuple[Mapping[str, Any], ...] = ()

    def build(
        self,
        root: str | os.PathLike,
        seed: int,
        splits: Mapping[str, int],
        progress: Callable[[Iterable, str], Iterable] = lambda items, _: items,
        force: bool = False,
    ) -> dict:
        """Write the benchmark below `root` and return its manifest.

        The tree is `{split}/000000.jpg`, `annotations/{split}.json` (COCO detection format, boxes
        in pixels, masks as run lengths), `contact_sheet.png` and `manifest.json`. If the manifest
        there describes the same data and the annotation files match it, nothing is written. A
        folder that holds anything else, edited files for instance, is left alone unless `force`
        says to replace it; a build that was interrupted is started again.

        Args:
            root: Folder of the benchmark; made when missing.
            seed: Seed of every draw.
            splits: Images per split.
            progress: Called as `progress(items, description)`, gives the items back.
            force: Replace whatever is there.

        Raises:
            ValueError: A split is unknown or asks for fewer than one image, or the folder holds
                other data.
        """
        root, splits = Path(root), dict(splits)
        for split, count in splits.items():
            if split not in SPLITS or count < 1:
                raise ValueError(
                    f"splits: expected a positive number of images for some of {sorted(SPLITS)}, "
                    f"got {split!r}: {count!r}"
                )
        current = verify(root)
        wanted = dict(generator=self.generator, seed=seed, images=splits)
        if current is not None and all(current[key] == wanted[key] for key in wanted):
            return current
        found = edits(root)
        if found and not force:
            raise ValueError(
                f"{root} holds other data than seed {seed} and {splits} give: {found}. It is left "
                "as it is; move it away, choose another folder, or replace it: "
                f"gdetkd data {self.name} --force"
            )
        draw, sources = self.start(seed)
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "manifest.json").write_text(json.dumps(dict(wanted, unfinished=True)) + "\n")
        files, histogram, samples = {}, {}, []
        for split, count in splits.items():
            numbers = progress(range(count), f"{self.name} {split}")
            images, annotations, shown = self._write_images(root / split, split, numbers, draw)
            samples += shown
            path = root / "annotations" / f"{split}.json"
            path.write_text(json.dumps(self._coco(images, annotations), separators=(",", ":")))
            files[split] = _sha256(path)
            counts = Counter(annotation["category_id"] - 1 for annotation in annotations)
            histogram[split] = {name: counts[label] for label, name in enumerate(self.classes)}
        cv2.imwrite(str(root / "contact_sheet.png"), contact_sheet(samples))
        manifest = dict(wanted, annotations_sha256=files, objects=histogram, sources=sources)
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        return manifest

    def _write_images(
        self, folder: Path, split: str, numbers: Iterable[int], draw: Draw
    ) -> tuple[list[dict], list[dict], list]:
        """Write a split's images; give COCO's lists of them and of their objects, some to show."""
        folder.mkdir(exist_ok=True)
        images, annotations, shown = [], [], []
        side = dict(width=self.image_size, height=self.image_size)
        for index in numbers:
            image, objects = draw(split, index)
            name = f"{index:06d}.jpg"
            cv2.imwrite(str(folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
            images.append(dict(id=index, file_name=name, **side))
            for label, box, area, mask in objects:
                annotations.append(
                    dict(
                        id=len(annotations) + 1, image_id=index, category_id=label + 1,
                        bbox=list(box), area=area, iscrowd=0, segmentation=run_lengths(mask),
                    )
                )  # fmt: skip
            if index < SHOWN:
                shown.append((image, [(each.box, self.classes[each.label]) for each in objects]))
        return images, annotations, shown

    def _coco(self, images: list[dict], annotations: list[dict]) -> dict:
        licenses = dict(licenses=list(self.licenses)) if self.licenses else {}
        for image in images if licenses else ():
            image["license"] = self.licenses[0]["id"]
        return dict(
            info=dict(self.info, version=str(self.generator)),
            **licenses,
            images=images,
            annotations=annotations,
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(self.classes)],
        )


def verify(root: str | os.PathLike) -> dict | None:
    """The manifest of the benchmark at `root` if its files are all there, else None."""
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


def edits(root: str | os.PathLike) -> str | None:
    """What is in the folder that a build would overwrite, in words; None if there is nothing.

    A build that was interrupted is nothing: its manifest says so.
    """
    root = Path(root)
    if not any(root.glob("*/*.jp*g")) and not any(root.glob("annotations/*")):
        return None
    try:
        manifest = json.loads((root / "manifest.json").read_text())
        if manifest.get("unfinished"):
            return None
        for split, digest in manifest["annotations_sha256"].items():
            if _sha256(root / "annotations" / f"{split}.json") != digest:
                return f"annotations/{split}.json is not the file that was built"
            names = {entry.name for entry in os.scandir(root / split)}
            for index in range(manifest["images"][split]):
                if f"{index:06d}.jpg" not in names:
                    return f"{split}/{index:06d}.jpg is missing"
        return f"the benchmark of seed {manifest['seed']} with {manifest['images']} images"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest or files cannot be read ({type(error).__name__}: {error})"


def generator(seed: int, split: str, index: int, stream: int) -> np.random.Generator:
    """Random numbers of one image: they do not depend on how many images there are."""
    return np.random.default_rng([seed, SPLITS.index(split), index, stream])


def crop(
    random: np.random.Generator, photos: list[np.ndarray], smallest: int, size: int
) -> np.ndarray:
    """A square of a photograph, at least `smallest` px wide, as (size, size, 3) float32."""
    photo = photos[int(random.integers(len(photos)))]
    side = int(random.integers(smallest, min(photo.shape[:2]) * 3 // 4 + 1))
    y = int(random.integers(photo.shape[0] - side + 1))
    x = int(random.integers(photo.shape[1] - side + 1))
    return cv2.resize(photo[y : y + side, x : x + side], (size, size)).astype(np.float32)


def run_lengths(mask: np.ndarray) -> dict:
    """A mask (h, w) as COCO's uncompressed run lengths: column by column, starting with zeros."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return dict(size=list(mask.shape), counts=[0, *runs] if flat[0] else runs)


@cache
def load_photos(names: tuple[str, ...]) -> list[np.ndarray]:
    """Photographs that lie inside the scikit-image wheel: (h, w, 3) uint8 BGR.

    Raises:
        FileNotFoundError: The wheel does not hold one of them.
    """
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    photos = []
    for name in names:
        path = next(folder.glob(f"{name}.*"), None)
        photo = None if path is None else cv2.imread(str(path), cv2.IMREAD_COLOR)
        if photo is None:
            raise FileNotFoundError(
                f"the photograph {name!r} is not in {folder}: expected the scikit-image wheel "
                "(0.25 or later), which holds it; reinstall scikit-image"
            )
        photos.append(photo)
    return photos


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
