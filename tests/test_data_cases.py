"""Small inputs that once went wrong without a word: each of `cases/data` with its right value."""

from __future__ import annotations

import codecs
import json
import random
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from miniature import write_miniature
from perfect import boxes, perfect_ap, written

from gdetkd.cli import cli
from gdetkd.datasets.prepare import one_split, prepare
from gdetkd.datasets.readers import coco

CASES = Path(__file__).parent / "cases" / "data"
BOX = [10.0, 12.0, 30.0, 28.0]  # corners of the object that most cases have


@pytest.fixture
def convert(tmp_path):
    """Convert a case or a folder; the result knows where its dataset config is."""

    def run(case, on_error="strict", layout="own", **choices):
        root = CASES / case if isinstance(case, str) else case
        choices = dict(classes=["cat", "dog"]) | choices
        out = tmp_path / f"out_{on_error}"
        done = prepare(layout, root, out, on_error, **choices)
        done.config = out / "dataset.py"
        assert done.report.balanced, done.report.summary()
        return done

    return run


def lines(done, kind):
    return [str(problem) for problem in done.report.problems if problem.kind == kind]


def only_bad(done, *kinds):
    """The kinds of what strict stops at, each named once."""
    assert sorted({problem.kind for problem in done.report.bad}) == sorted(kinds)


def test_every_case_is_tried_here():
    text = Path(__file__).read_text()
    assert all(f'"{folder.name}"' in text for folder in CASES.iterdir())


@pytest.fixture
def release(tmp_path):
    """COCO's release in small, with a change made to both of its annotation files."""

    def make(change):
        root = tmp_path / "coco"
        write_miniature("coco", root, range(4, 10), range(20, 22))
        for path in (root / "annotations").glob("instances_*.json"):
            content = json.loads(path.read_text())
            data = change(content)
            path.write_bytes(data if data is not None else json.dumps(content).encode())
        return root

    return make


def sort_categories(content):
    content["categories"].sort(key=lambda entry: entry["name"])


def renumber_categories(content):
    numbers = {entry["id"]: place for place, entry in enumerate(content["categories"])}
    for entry in content["categories"]:
        entry["id"] = numbers[entry["id"]]
    for entry in content["annotations"]:
        entry["category_id"] = numbers[entry["category_id"]]
    random.Random(0).shuffle(content["categories"])


def keep_used_categories(content):
    used = {entry["category_id"] for entry in content["annotations"]}
    content["categories"] = [c for c in content["categories"] if c["id"] in used or c["id"] == 90]


def without(*keys):
    def change(content):
        for entry in content["annotations"]:
            for key in keys:
                entry.pop(key)

    return change


def count_from_zero(content):
    for place, entry in enumerate(content["annotations"]):
        entry["id"] = place


def quote_ids(content):
    for table in ("images", "annotations", "categories"):
        for entry in content[table]:
            entry.update({key: str(entry[key]) for key in entry if key.endswith("id")})


RELEASE = {
    "coco_ids_in_quotes": quote_ids,
    "coco_no_ids": without("id"),
    "coco_noarea": without("area"),
    "coco_nocrowd": without("iscrowd"),
    "coco_alpha": sort_categories,
    "coco_other_ids": renumber_categories,
    "coco_some_of_80": keep_used_categories,
    "coco_id0": count_from_zero,
    "coco_bom": lambda content: codecs.BOM_UTF8 + json.dumps(content).encode(),
    "coco_utf16": lambda content: json.dumps(content).encode("utf-16"),
    "coco_utf32": lambda content: json.dumps(content).encode("utf-32"),
}


@pytest.mark.parametrize("case", RELEASE)
def test_what_is_not_the_release_is_converted_and_pointed_to(release, convert, tmp_path, case):
    write_miniature("coco", tmp_path / "sound", range(4, 10), range(20, 22))
    sound = convert(tmp_path / "sound", layout="coco", classes=None)
    assert not lines(sound, "converted")
    right = {split: boxes(sound, split) for split in sound.summary["splits"]}
    done = convert(release(RELEASE[case]), layout="coco", classes=None)
    only_bad(done)
    assert len(lines(done, "converted")) == 2
    assert {split: boxes(done, split) for split in done.summary["splits"]} == right
    for split, entry in done.summary["splits"].items():
        assert Path(entry["annotations"]).parent == done.config.parent / "annotations"
        assert perfect_ap(done, split) == 1.0
        names = [c["name"] for c in written(done, split)["categories"]]
        assert names == list(coco.CLASSES.values())


def test_the_release_itself_is_used_where_it_is(release, convert):
    root = release(lambda content: None)
    done = convert(root, layout="coco", classes=None)
    for split, entry in done.summary["splits"].items():
        assert Path(entry["annotations"]) == root / "annotations" / f"instances_{split}.json"
        assert perfect_ap(done, split) == 1.0


def test_splits_are_known_whatever_their_capitals(convert):
    done = convert("cvat_subsets")
    only_bad(done)
    assert done.summary["stages"] == dict(train="Train", val="Validation", test="Test")
    assert set(boxes(done, "Train")) == {"a.jpg", "b.jpg"} and one_split(done.summary) is None
    done = convert("voc_set_Case")
    assert done.summary["stages"] == dict(train="Train", val="Test", test="Test")
    assert boxes(done, "Train") == {"a.jpg": [("cat", [10, 12, 29, 27])]}
    # b.xml says <filename>a.jpg</filename>: the image of its own name is taken, and that is said.
    assert set(boxes(done, "Test")) == {"b.jpg"} and len(lines(done, "filename")) == 1


def test_the_same_files_in_two_splits_are_reported(convert):
    (line,) = lines(convert("cvat_same_names"), "overlapping splits")
    assert "2 of its 2 image files are in 'Train', too, such as 'images/a.jpg'" in line


def object_of(path):
    """Corners of the one colored thing in a picture, as MMDetection's loader gives it."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR).astype(int)
    ys, xs = np.nonzero(image.max(2) - image.min(2) > 60)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    "case, choices",
    [
        ("exif_stored", {}),
        ("exif_json_stored_box_shown", {}),
        ("voc_exif", {}),
        ("exif_180_stored", dict(turned="stored")),
    ],
)
def test_boxes_of_turned_images_are_where_the_object_is_loaded(convert, case, choices):
    done = convert(case, **choices)
    only_bad(done)
    (split,) = done.summary["splits"]
    ((_, box),) = boxes(done, split)["a.jpg"]
    image = next((CASES / case).glob("*/a.jpg"))
    # JPEG's colors run over by a pixel or two.
    assert np.abs(np.subtract(box, object_of(image))).max() <= 3
    assert len(lines(done, "turned image")) == 1


def test_a_turned_image_that_nothing_settles_is_refused_by_name(convert):
    done = convert("exif_180_stored")
    only_bad(done, "turned image", "empty split")
    assert "train/a.jpg" in lines(done, "turned image")[0]
    assert "--turned stored" in lines(done, "turned image")[0] and done.summary is None
    assert convert("exif_180_stored", "skip").summary is None


def test_one_file_of_two_ids_is_reported_and_left_out(convert):
    for on_error in ("strict", "skip"):
        done = convert("fn_same_two_ids", on_error)
        only_bad(done, "one file, several images", "empty split")
        assert done.report.objects_reported == 2 and done.summary is None


def test_one_id_of_two_images_takes_the_objects_along(convert):
    for on_error in ("strict", "skip"):
        done = convert("ids_dup_image", on_error)
        only_bad(done, "ambiguous id", "empty split")
        (line,) = lines(done, "ambiguous id")
        assert "'a.jpg', 'b.jpg'" in line and done.report.objects_reported == 2


def test_every_box_of_an_xml_file_comes_in(convert):
    done = convert("voc_two_bndbox")
    only_bad(done)
    assert boxes(done, "all")["a.jpg"] == [("cat", [10, 12, 29, 27]), ("cat", [50, 12, 69, 27])]
    assert len(lines(done, "several boxes")) == 1 and done.report.objects_in == 2
    done = convert("voc_wrapped")
    only_bad(done)
    assert [name for name, _ in boxes(done, "all")["a.jpg"]] == ["cat", "dog"]


def test_files_that_count_from_zero_are_found_out(convert):
    done = convert("voc_zero_based")
    (line,) = lines(done, "zero-based boxes")
    assert "--zero-based" in line
    done = convert("voc_zero_based", flags=["zero_based"])
    assert not lines(done, "zero-based boxes")
    assert boxes(done, "all") == {"a.jpg": [("cat", [0, 0, 95, 63])]}


def test_an_image_of_any_suffix_is_found(convert):
    done = convert("voc_bmp_upper")
    only_bad(done)
    assert boxes(done, "all") == {"a.BMP": [("cat", [10, 12, 29, 27])]}


@pytest.mark.parametrize(
    "case, kind, said",
    [
        ("zero_train", "nothing to train on", "none of the 2 images has an object"),
        ("small_images", "nothing to train on", "under 32 px"),
        ("box_rel", "relative boxes", "all 2 boxes of the split are within 0 to 1"),
    ],
)
def test_nothing_to_train_on_is_said_with_its_cause(convert, case, kind, said):
    done = convert(case)
    (line,) = lines(done, kind)
    assert said in line and "train" in line and done.summary is None
    skipped = convert(case, "skip")
    assert lines(skipped, kind) == [line]
    assert skipped.summary is None


def test_bdd100ks_boxes_are_those_of_its_authors(convert):
    done = convert("bdd_edge", layout="bdd100k", classes=None)
    only_bad(done)
    assert [a["bbox"] for a in written(done, "train")["annotations"]] == [
        [0, 0, 128, 72], [10, 10, pytest.approx(1.4), 21], [20, 20, 1, 1]
    ]  # fmt: skip


def test_a_broken_mask_costs_the_mask_alone(convert):
    done = convert("seg_flat")
    only_bad(done)
    assert len(lines(done, "segmentation")) == 1
    assert boxes(done, "train")["a.jpg"] == [("cat", BOX)]
    assert not any("segmentation" in a for a in written(done, "train")["annotations"])


def test_an_ignored_object_is_said_and_stays_ignored(convert):
    done = convert("ignore_key")
    only_bad(done)
    assert "neither trained on nor counted" in lines(done, "ignored object")[0]
    assert [a["iscrowd"] for a in written(done, "train")["annotations"]] == [1, 0]


def test_a_missing_size_is_one_line(convert):
    done = convert("size_missing")
    only_bad(done)
    assert len(lines(done, "image size")) == 1 and not lines(done, "unknown image")
    assert boxes(done, "train")["a.jpg"] == [("cat", BOX)]


def test_transparency_is_remarked_on(convert):
    done = convert("img_rgba")
    only_bad(done)
    assert len(lines(done, "RGBA image")) == 1 and boxes(done, "train")["a.png"] == [("cat", BOX)]


def test_captions_beside_are_passed_over(convert):
    done = convert("extra_json")
    only_bad(done)
    assert len(lines(done, "other content")) == 1 and list(done.summary["splits"]) == ["train"]


def test_the_command_says_what_was_taken_for_what(tmp_path):
    arguments = ["data", "own", "--root", str(CASES / "cvat_subsets"), "--out",
                 str(tmp_path / "out"), "--classes", "cat,dog"]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "To train on: Train; to validate on: Validation; to test on: Test" in done.output
    arguments[3] = str(CASES / "extra_json")
    shutil.copytree(CASES / "cvat_subsets", tmp_path / "odd")
    for path in (tmp_path / "odd" / "annotations").iterdir():
        path.rename(path.with_name(path.name.replace("Train", "part").replace("Valid", "Inv")))
    arguments[3] = str(tmp_path / "odd")
    done = CliRunner().invoke(cli, arguments)
    assert "no split is for training by its name" in str(done.exception)
    more = ["--train", "part", "--val", "Invation"]
    done = CliRunner().invoke(cli, arguments + more)
    assert done.exit_code == 0 and "To train on: part; to validate on: Invation" in done.output
