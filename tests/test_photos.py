"""The benchmark of photographs: of cut-outs made here, and of Debian's where they are installed."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from pycocotools.coco import COCO

from gdetkd.cli import cli
from gdetkd.datasets import photos as source
from gdetkd.datasets.embedded import verify
from gdetkd.datasets.photos import CLASSES, FOLDERS, IMAGE_SIZE, build_photos, find_stamps, kind

SMALL = {"train": 8, "val": 4, "test": 4}


def write_stamp(path, height, width, shade, opaque=False):
    """An ellipse on transparent ground that is off the center of its file."""
    picture = np.zeros((height + 20, width + 7, 4), np.uint8)
    picture[..., :3] = shade
    center = (3 + width // 2, 15 + height // 2)
    cv2.ellipse(picture, center, (width // 2, height // 2), 0, 0, 360, (*shade, 255), -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture[..., :3] if opaque else picture)


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    """Four kinds of every class, one of which has two pictures, and what is to be left out."""
    root = tmp_path_factory.mktemp("stamps")
    for label, folders in enumerate(FOLDERS.values()):
        for number, name in enumerate(["ape", "ape-2", "bat", "cat_red", "dog"]):
            shade = (25 * label, 40 * number, 255 - 25 * label)
            write_stamp(root / folders[-1] / f"{name}.png", 50 + 60 * number, 90, shade)
        write_stamp(root / folders[0] / "cartoon" / "elk.png", 40, 40, (9, 9, 9))
        write_stamp(root / folders[0] / "bat_mirror.png", 40, 40, (9, 9, 9))
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory, stamps):
    root = tmp_path_factory.mktemp("photos")
    return root, build_photos(root, splits=SMALL, stamps=stamps)


def test_annotations_are_the_same_bytes_everywhere(built):
    # Pinned: masks and boxes come from integer arithmetic, whatever resampling the machine has.
    assert built[1]["annotations_sha256"] == {
        "train": "3352ad8ef44787174f103e804be103fa68ea1dbb4aa14b16c34ff1e1df06989f",
        "val": "db41020e21fe458b21e7dcc6afdacb80f328cd01ec2ab4beea2bf14ba4e167e6",
        "test": "22f1510adf25b062f11f7e9e3da6a0ca7b14944fa32037f05892fb4cb16a0099",
    }


def test_boxes_are_those_of_what_is_seen_and_no_pixel_is_of_two_objects(built):
    root, manifest = built
    for split, count in SMALL.items():
        coco = COCO(root / "annotations" / f"{split}.json")
        assert len(coco.imgs) == count and [c["name"] for c in coco.cats.values()] == list(CLASSES)
        for number in coco.imgs:
            entries = coco.imgToAnns[number]
            assert 1 <= len(entries) <= 5
            masks = [coco.annToMask(entry) for entry in entries]
            assert sum(masks).max() == 1
            for entry, mask in zip(entries, masks, strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                x, y, w, h = entry["bbox"]
                assert (x, y) == (columns[0], rows[0])
                assert (x + w - 1, y + h - 1) == (columns[-1], rows[-1])
                assert entry["area"] == mask.sum()
    assert sum(manifest["objects"]["val"].values()) == len(coco_entries(root, "val"))


def coco_entries(root, split):
    return json.loads((root / "annotations" / f"{split}.json").read_text())["annotations"]


def test_three_fifths_of_every_object_are_seen(stamps):
    cut_outs = [source.load_cut_out(path, label) for label, path in find_stamps(stamps)]
    by_class = source.split_cut_outs(cut_outs, 0)["train"]
    shares, beyond = [], 0
    for index in range(60):
        objects, masks = source.place(0, "train", index, cut_outs, by_class)
        for each, mask in zip(objects, masks, strict=True):
            (x, y), (w, h) = each.corner, each.size
            beyond += x < 0 or y < 0 or x + w > IMAGE_SIZE or y + h > IMAGE_SIZE
            shares.append(mask.sum() / source._mask(each, cut_outs[each.cut_out].shape)[1])
    assert min(shares) >= 0.6 and min(shares) < 0.75 and max(shares) == 1 and beyond > 10


def test_no_cut_out_and_no_kind_is_in_two_splits_and_no_drawing_in_any(built):
    by_split = built[1]["sources"]["cut_outs_by_split"]
    everything = [name for names in by_split.values() for name in names]
    assert len(everything) == len(set(everything)) == 5 * len(CLASSES)
    assert not {"elk", "bat_mirror"} & {name.split("/")[1] for name in everything}
    kinds = [
        {(name.split("/")[0], kind(name.split("/")[1])) for name in names}
        for names in by_split.values()
    ]
    assert sum(map(len, kinds)) == len(set.union(*kinds)) == 4 * len(CLASSES)
    # Of two pictures of a kind a detector learns; it is measured on single ones.
    assert all(f"{name}/ape" in by_split["train"] for name in CLASSES)


def test_kinds_by_name():
    assert [kind(name) for name in ("apple_red", "lion-2", "pig_golden2", "Strawberry2")] == [
        "apple", "lion", "pig", "strawberry",
    ]  # fmt: skip


def test_objects_look_like_their_cut_outs(stamps):
    """Their middle has the cut-out's hue under one light, and the edges are between the two."""
    cut_outs = [source.load_cut_out(path, label) for label, path in find_stamps(stamps)]
    each = source.Photographed(0, (60, 60), (90, 50), False)
    ground = [np.full((300, 300, 3), 128, np.uint8)]
    color, between = cut_outs[0].pixels[25, 45].astype(float), 0
    for index in range(10):
        image = source.render(0, "train", index, [each], cut_outs, ground).astype(float)
        middle, behind = image[80:90, 100:110].mean((0, 1)), image[:40].mean((0, 1))
        assert np.corrcoef(middle, color)[0, 1] > 0.99
        row = image[85, 50:75] - behind  # over the left edge, at x = 60
        change = (row @ (middle - behind)) / ((middle - behind) @ (middle - behind))
        assert change[:5].max() < 0.2 and change[-5:].min() > 0.8
        between += ((change > 0.2) & (change < 0.8)).sum()
    assert between >= 5  # a hard cut has none


def test_the_license_is_in_the_annotations(built):
    annotations = json.loads((built[0] / "annotations" / "val.json").read_text())
    assert "GPL-2" in annotations["info"]["description"]
    assert annotations["licenses"][0]["name"] == "GPL-2"
    assert {image["license"] for image in annotations["images"]} == {1}


def test_once_built_it_needs_no_cut_outs_and_another_seed_is_other_data(built, tmp_path, stamps):
    root, manifest = built
    assert build_photos(root, splits=SMALL, stamps=tmp_path) == manifest == verify(root)
    other = build_photos(tmp_path / "other", seed=1, splits={"val": 4}, stamps=stamps)
    assert other["annotations_sha256"]["val"] != manifest["annotations_sha256"]["val"]
    splits = (found["sources"]["cut_outs_by_split"]["val"] for found in (other, manifest))
    assert next(splits) != next(splits)


def test_the_command_says_what_to_install_and_leaves_nothing(tmp_path):
    root = tmp_path / "photos"
    arguments = ["data", "photos", "--root", str(root), "--stamps", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1 and not root.exists()
    assert "found 0 photographs for 'bird'" in done.output
    assert "apt-get install tuxpaint-stamps-default" in done.output and "--stamps" in done.output


def test_the_command_writes_it_and_shows_its_classes(tmp_path, stamps, monkeypatch):
    monkeypatch.setattr(source, "SPLITS", {"train": 2, "val": 1, "test": 1})
    root = tmp_path / "photos"
    arguments = ["data", "photos", "--root", str(root), "--stamps", str(stamps)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "contact_sheet.png" in done.output and "GPL-2" in done.output
    assert verify(root)["images"] == {"train": 2, "val": 1, "test": 1}


def test_a_picture_without_transparent_ground_is_refused(tmp_path):
    write_stamp(tmp_path / "brick.png", 30, 30, (1, 2, 3), opaque=True)
    with pytest.raises(ValueError, match="brick.png: expected an object on transparent ground"):
        source.load_cut_out(tmp_path / "brick.png", 0)


def test_debians_cut_outs_are_enough_where_they_are_installed():
    try:
        found = find_stamps()
    except FileNotFoundError:
        pytest.skip(f"Debian's {source.PACKAGE} is not installed")
    counts = np.bincount([label for label, _ in found])
    assert len(counts) == 10 and counts.min() >= 9 and counts.sum() > 220
