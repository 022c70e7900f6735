"""Large pictures in tiles: where they lie, which objects they have, and on which side they are."""

import json
import re

import cv2
import numpy as np
import pytest

from gdetkd.datasets.prepare import prepare
from gdetkd.datasets.tiles import _parts, check_tiling, corners


def test_tiles_cover_a_side_and_end_at_its_edge():
    assert corners(100, 40, 0.25) == [0, 30, 60]  # steps of 30; the last ends at 100
    assert corners(110, 40, 0.25) == [0, 30, 60, 70]
    assert corners(40, 40, 0.2) == corners(30, 40, 0.2) == [0]


def test_a_box_is_cut_by_the_rule():
    """10 px wide from 35 to 45; tiles begin at 0 and 30: half of it is in the first, all in the
    second. From 38 to 48, a fifth is in the first: a part that is only ignored."""
    places = [(0, 0), (30, 0)]
    assert _parts([35, 0, 10, 10], places, 40) == [
        (0, [35, 0, 5, 10], 1), (1, [5, 0, 10, 10], 0)
    ]  # fmt: skip
    assert _parts([38, 0, 10, 10], places, 40) == [
        (0, [38, 0, 2, 10], 2), (1, [8, 0, 10, 10], 0)
    ]  # fmt: skip


def test_an_object_larger_than_a_tile_is_where_most_of_it_is():
    """100 px wide in tiles of 40 without overlap: 40, 40 and 20; the first of the two largest."""
    kinds = [kind for _, _, kind in _parts([0, 0, 100, 10], [(0, 0), (40, 0), (80, 0)], 40)]
    assert kinds == [1, 2, 2]


@pytest.mark.parametrize("tile, overlap", [(31, 0.2), (64, 0.9), (64, -0.1)])
def test_no_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="--tile|--overlap"):
        check_tiling(tile, overlap)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Four pictures of 150 x 100 px with objects at random, in tiles of 64 px."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "raw" / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 5):
        pixels = random.integers(0, 255, (100, 150, 3), np.uint8)
        cv2.imwrite(str(folder / "raw" / "images" / f"p{number}.png"), pixels)
        images.append(dict(id=number, file_name=f"p{number}.png", width=150, height=100))
        for _ in range(12):
            x, y = random.integers(0, 120), random.integers(0, 70)
            box = [int(x), int(y), 20, 25]
            annotations.append(dict(id=len(annotations) + 1, image_id=number, category_id=1,
                                    bbox=box, area=500, iscrowd=0))  # fmt: skip
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="tree")])
    (folder / "raw" / "labels.json").write_text(json.dumps(content))
    done = prepare("own", folder / "raw", folder / "out", val_fraction=0.25, tile=64, overlap=0.25)
    return folder, done


def test_objects_in_are_objects_out_and_both_are_said(tiled):
    _, done = tiled
    assert done.report.balanced and not done.report.bad
    said = [str(problem) for problem in done.report.problems if problem.kind == "tiled"]
    numbers = [list(map(int, re.findall(r"\d+", text))) for text in said]
    sources, boxes = (sum(int(n) for n in column) for column in zip(
        *[(re.search(r"(\d+) objects", t)[1], re.search(r"(\d+) boxes", t)[1]) for t in said],
        strict=True))  # fmt: skip
    assert sources == 4 * 12 and len(numbers) == 2
    kept = 0
    for entry in done.summary["splits"].values():
        content = json.loads(open(entry["annotations"]).read())
        kept += sum(not each["iscrowd"] for each in content["annotations"])
    assert kept == boxes >= sources


def test_tiles_are_the_pictures_pixels_and_stay_on_their_side(tiled):
    folder, done = tiled
    sides = {}
    for split, entry in done.summary["splits"].items():
        content = json.loads(open(entry["annotations"]).read())
        for image in content["images"]:
            stem, x, y = image["file_name"].removesuffix(".png").rsplit("_", 2)
            sides.setdefault(stem, set()).add(split)
            tile = cv2.imread(entry["images"] + image["file_name"])
            whole = cv2.imread(str(folder / "raw" / f"{stem}.png"))
            assert (tile == whole[int(y) : int(y) + 64, int(x) : int(x) + 64]).all()
    assert sorted(map(len, sides.values())) == [1, 1, 1, 1]
