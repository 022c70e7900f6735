"""Large pictures cut into tiles, which a detector sees at full resolution.

Tiles overlap, and the last ones of a row and column end at the picture's edge. A box is cut to the
tile. An object belongs to the tile that shows most of it and to every other one that shows at least
half; a lesser part is marked `iscrowd`: neither trained on nor counted. So every object is in some
tile, and no tile punishes a detector for what it finds at its edge. A picture's tiles are in the
picture's split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gdetkd.datasets.report import Report
from gdetkd.datasets.samples import Progress

TILES = "tiles"
HALF = 0.5  # of an object's area, from which on it belongs to a tile


def check_tiling(tile: int | None, overlap: float) -> None:
    """Raise ValueError for a size or an overlap that gives no tiles."""
    if tile is not None and tile < 32:
        raise ValueError(f"--tile: expected a side of 32 px or more, got {tile}")
    if not 0 <= overlap < 0.9:
        raise ValueError(f"--overlap: expected a part of the tile's side below 0.9, got {overlap}")


def corners(length: int, tile: int, overlap: float) -> list[int]:
    """Where the tiles of a side of a picture begin."""
    if length <= tile:
        return [0]
    step = max(1, round(tile * (1 - overlap)))
    return [*range(0, length - tile, step), length - tile]


def cut(
    contents: Mapping[str, dict], root: Path, out: Path, tile: int, overlap: float,
    report: Report, progress: Progress = lambda items, _: items,
) -> dict[str, dict]:  # fmt: skip
    """Write the tiles of every split to `out/tiles` and give their content in COCO's format.

    Args:
        contents: Split -> what `to_coco` gave; file names are relative to `root`.
        tile, overlap: Side in px, and the part of it that two neighbors share.
        report: Gets a line per split with the numbers of pictures, objects, tiles and boxes.
    """
    tiled = {}
    for split, content in contents.items():
        images, annotations, counts = [], [], np.zeros(3, int)  # whole, cut, marked as crowd
        boxes: dict[int, list[dict]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            boxes[annotation["image_id"]].append(annotation)
        for image in progress(content["images"], f"tiles of {split}"):
            pixels = cv2.imdecode(
                np.fromfile(root / image["file_name"], np.uint8), cv2.IMREAD_COLOR
            )
            stem = os.path.splitext(image["file_name"])[0]
            places = [
                (x, y)
                for y in corners(image["height"], tile, overlap)
                for x in corners(image["width"], tile, overlap)
            ]
            first = len(images) + 1
            for number, (x, y) in enumerate(places, start=first):
                part = pixels[y : y + tile, x : x + tile]
                name = f"{stem}_{x}_{y}.png"
                (out / TILES / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imencode(".png", part)[1].tofile(out / TILES / name)
                height, width = part.shape[:2]
                images.append(dict(id=number, file_name=name, width=width, height=height))
            for annotation in boxes[image["id"]]:
                for place, box, kind in _parts(annotation["bbox"], places, tile):
                    counts[kind] += 1
                    crowd = 1 if kind == 2 else annotation["iscrowd"]
                    annotations.append(
                        dict(
                            id=len(annotations) + 1, image_id=first + place,
                            category_id=annotation["category_id"], bbox=box,
                            area=box[2] * box[3], iscrowd=crowd,
                        )
                    )  # fmt: skip
        report.remark(
            "tiled", split, "",
            f"{len(content['annotations'])} objects in {len(content['images'])} pictures became "
            f"{counts[0] + counts[1]} boxes in {len(images)} tiles, {counts[1]} of them cut; "
            f"{counts[2]} further parts under half of an object are marked iscrowd",
        )  # fmt: skip
        tiled[split] = {**content, "images": images, "annotations": annotations}
    return tiled


def _parts(
    box: list[float], places: list[tuple[int, int]], tile: int
) -> list[tuple[int, list[float], int]]:
    """The parts of a box (x, y, width, height): tile, box there, and 0 whole, 1 cut, 2 crowd."""
    x, y, width, height = box
    shown: list[tuple[float, int, list[Any]]] = []
    for place, (left, top) in enumerate(places):
        x1, y1 = max(x, left), max(y, top)
        x2, y2 = min(x + width, left + tile), min(y + height, top + tile)
        if x2 > x1 and y2 > y1:
            area = (x2 - x1) * (y2 - y1) / (width * height)
            shown.append((area, place, [x1 - left, y1 - top, x2 - x1, y2 - y1]))
    best = max(shown, key=lambda each: (each[0], -each[1]))[1] if shown else None
    found = []
    for area, place, part in shown:
        member = area >= HALF or place == best
        found.append((place, part, (0 if area > 1 - 1e-6 else 1) if member else 2))
    return found
