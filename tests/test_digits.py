"""The embedded benchmark: the same everywhere, true to itself, told when it is damaged."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from gdetkd.datasets import digits as source
from gdetkd.datasets.digits import (
    CLASSES,
    GLYPHS,
    IMAGE_SIZE,
    MAX_OVERLAP,
    build_digits,
    draw_digits,
    load_glyphs,
)
from gdetkd.datasets.embedded import run_lengths, verify

SMALL = {"train": 12, "val": 6, "test": 5}


@pytest.fixture(scope="module")
def glyphs():
    return load_glyphs()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    return root, build_digits(root, seed=0, splits=SMALL)


def annotations(root, split):
    return json.loads((root / "annotations" / f"{split}.json").read_text())


def test_annotations_are_the_same_bytes_everywhere(built):
    # Pinned: another machine, codec or library version must give these very files.
    assert built[1]["annotations_sha256"] == {
        "train": "8d9f7ae9474681fb2f947e05cff2c4b94ebed2794395bfa103a54f1fbd5c57e3",
        "val": "f5ca39f10df77541f2ae226df6ca42822de7b62e22c5ffe80c74c7161f2e924f",
        "test": "8deb95f12d417d2ba0398c10fe1c49bbdc7d289720234467fa2844e7a6a154df",
    }


def test_another_seed_gives_other_data(tmp_path, built):
    other = build_digits(tmp_path, seed=1, splits={"val": 6})
    assert other["annotations_sha256"]["val"] != built[1]["annotations_sha256"]["val"]


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path, built):
    build_digits(tmp_path, seed=0, splits={"train": 3})
    for name in ("000000.jpg", "000002.jpg"):
        assert (tmp_path / "train" / name).read_bytes() == (built[0] / "train" / name).read_bytes()


def test_boxes_and_masks_agree_with_the_format(built):
    root, manifest = built
    for split, count in SMALL.items():
        coco = COCO(root / "annotations" / f"{split}.json")
        assert len(coco.imgs) == count
        assert [c["name"] for c in coco.cats.values()] == list(CLASSES)
        for annotation in coco.anns.values():
            x, y, w, h = annotation["bbox"]
            assert x >= 0 and y >= 0 and x + w <= IMAGE_SIZE and y + h <= IMAGE_SIZE
            assert 12 <= max(w, h) <= 72 and min(w, h) >= 4
            mask = coco.annToMask(annotation)
            assert mask.any() and mask[y : y + h, x : x + w].sum() == mask.sum()
        for number in coco.imgs:
            assert len(coco.getAnnIds(number)) >= 1
    assert sum(manifest["objects"]["train"].values()) == len(
        annotations(root, "train")["annotations"]
    )


def test_masks_are_the_ink_of_the_glyph(built, glyphs):
    root, _ = built
    coco = COCO(root / "annotations" / "train.json")
    inside, outside = [], []
    for index in range(4):
        drawn = draw_digits(0, "train", index, glyphs)
        for digit, entry in zip(drawn, coco.imgToAnns[index], strict=True):
            assert list(digit.box) == entry["bbox"] and digit.label == entry["category_id"] - 1
            x, y, w, h = digit.box
            ink = cv2.resize(glyphs[digit.glyph][0], (w, h))
            mask = coco.annToMask(entry)[y : y + h, x : x + w].astype(bool)
            inside.extend(ink[mask])
            outside.extend(ink[~mask])
    # Ink is 255 and paper 0, between them the edges, which the resampling widens.
    assert np.median(inside) > 200 and np.median(outside) < 50


def test_an_image_has_two_to_six_digits_that_hardly_overlap(glyphs):
    counts = []
    for index in range(60):
        found = draw_digits(0, "train", index, glyphs)
        counts.append(len(found))
        for i, a in enumerate(found):
            assert all(source._iou(a.box, b.box) <= MAX_OVERLAP for b in found[:i])
    assert min(counts) == 2 and max(counts) == 6


def test_no_glyph_is_in_two_splits(glyphs):
    used = {
        split: {d.glyph for i in range(80) for d in draw_digits(0, split, i, glyphs)}
        for split in GLYPHS
    }
    assert not used["train"] & used["val"] and not used["train"] & used["test"]
    assert not used["val"] & used["test"]
    for split, numbers in used.items():
        first, last = GLYPHS[split]
        assert all(first <= number % 500 < last for number in numbers)


def test_labels_are_those_of_the_glyphs(glyphs):
    for index in range(20):
        for digit in draw_digits(0, "val", index, glyphs):
            assert glyphs[digit.glyph][1] == digit.label


def test_run_lengths_by_hand():
    # Column by column: 1 zero, 2 ones, 1 zero.
    found = run_lengths(np.array([[0, 1, 1], [1, 0, 0]], bool))
    assert found == dict(size=[2, 3], counts=[1, 2, 1, 1, 1])
    assert run_lengths(np.array([[1, 1], [0, 1]], bool))["counts"] == [0, 1, 1, 2]


def test_digits_can_be_seen(built):
    # The ink of a digit differs from its surroundings: else there is nothing to learn.
    root, _ = built
    contrasts = []
    coco = COCO(root / "annotations" / "train.json")
    for annotation in coco.anns.values():
        name = coco.imgs[annotation["image_id"]]["file_name"]
        gray = cv2.imread(str(root / "train" / name), cv2.IMREAD_GRAYSCALE).astype(float)
        x, y, w, h = annotation["bbox"]
        mask = coco.annToMask(annotation)[y : y + h, x : x + w].astype(bool)
        patch = gray[y : y + h, x : x + w]
        if not mask.all():
            contrasts.append(abs(patch[mask].mean() - patch[~mask].mean()))
    assert np.median(contrasts) > 30


def test_a_second_call_writes_nothing(built):
    root, manifest = built
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert build_digits(root, seed=0, splits=SMALL) == manifest
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


@pytest.mark.parametrize("damage", ["image", "annotations", "manifest"])
def test_damage_is_noticed_and_repaired_when_asked(tmp_path, damage):
    whole = build_digits(tmp_path, splits={"val": 3})
    path = {
        "image": tmp_path / "val" / "000001.jpg",
        "annotations": tmp_path / "annotations" / "val.json",
        "manifest": tmp_path / "manifest.json",
    }[damage]
    if damage == "image":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-30])
    assert verify(tmp_path) is None
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="is left as it is"):
        build_digits(tmp_path, splits={"val": 3})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept
    repaired = build_digits(tmp_path, splits={"val": 3}, force=True)
    assert repaired == whole == verify(tmp_path)


def test_another_seed_does_not_replace_what_is_there(tmp_path):
    build_digits(tmp_path, seed=5, splits={"val": 2})
    with pytest.raises(ValueError, match="the benchmark of seed 5"):
        build_digits(tmp_path, splits={"val": 2})
    assert verify(tmp_path)["seed"] == 5


def test_data_of_somebody_else_are_left_alone(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val.json").write_text("{}")
    with pytest.raises(ValueError, match="holds other data"):
        build_digits(tmp_path, splits={"val": 2})
    assert (tmp_path / "annotations" / "val.json").read_text() == "{}"


def test_an_interrupted_build_is_started_again(tmp_path):
    def stop(items, text):
        yield from list(items)[:1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_digits(tmp_path, splits={"val": 2}, progress=stop)
    assert verify(tmp_path) is None
    assert build_digits(tmp_path, splits={"val": 2}) == verify(tmp_path)


def test_the_version_is_text(built):
    # Other readers of COCO's format refuse a number.
    assert isinstance(annotations(built[0], "train")["info"]["version"], str)


@pytest.mark.parametrize("splits", [{"train": 0}, {"training": 5}])
def test_impossible_splits_are_refused_and_nothing_is_written(tmp_path, splits):
    with pytest.raises(ValueError, match="expected a positive number of images"):
        build_digits(tmp_path / "new", splits=splits)
    assert not (tmp_path / "new").exists()
