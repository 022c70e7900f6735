"""COCO, VOC2007, BDD100K and own data: what goes in comes out, or a line says why not."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from miniature import OWN_FORMS, STAND_INS, write_miniature
from mmdet.datasets import CocoDataset, VOCDataset
from PIL import Image
from pycocotools.coco import COCO

from gdetkd.cli import cli
from gdetkd.datasets import archives
from gdetkd.datasets.digits import draw_digits, load_glyphs
from gdetkd.datasets.prepare import config_options, one_split, prepare
from gdetkd.datasets.readers import coco, voc

TRAIN, VAL = range(4, 12), range(20, 22)


@pytest.fixture(scope="module", params=[form for form in STAND_INS if form not in OWN_FORMS])
def sound(request, tmp_path_factory):
    """A sound data set of ten images: its format and its root."""
    root = tmp_path_factory.mktemp(request.param) / "data set ü"
    write_miniature(request.param, root, TRAIN, VAL)
    return request.param, root


@pytest.fixture
def mini(tmp_path):
    """Write a data set of ten images in a format and give its root."""

    def write(form):
        write_miniature(form, tmp_path / "data", TRAIN, VAL)
        return tmp_path / "data"

    return write


def drawn(indices):
    """Label and box of every digit in the images."""
    glyphs = load_glyphs()
    return [(d.label, d.box) for i in indices for d in draw_digits(0, "train", i, glyphs)]


def kinds(done):
    return [problem.kind for problem in done.report.bad]


def test_classes_are_those_of_mmdetection():
    assert tuple(coco.CLASSES.values()) == CocoDataset.METAINFO["classes"]
    assert len(coco.CLASSES) == 80 and list(coco.CLASSES)[-1] == 90
    assert voc.CLASSES == VOCDataset.METAINFO["classes"]


def test_a_sound_data_set_passes_and_nothing_of_it_changes(sound, tmp_path):
    form, root = sound
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = prepare(form.removesuffix("_2018"), root, tmp_path / "out")
    assert done.summary and not done.report.bad and done.report.balanced
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert done.report.objects_out == done.report.objects_in > 20
    total = 0
    for entry in done.summary["splits"].values():
        found = COCO(entry["annotations"])
        assert len(found.imgs) == entry["count"]
        assert len(found.anns) == sum(entry["objects"].values())
        total += len(found.anns)
        for image in found.imgs.values():
            assert os.path.isfile(entry["images"] + image["file_name"])
    assert total == done.report.objects_out
    assert cv2.imread(str(tmp_path / "out" / "contact_sheet.jpg")).shape[0] > 256
    assert json.loads((tmp_path / "out" / "dataset.json").read_text()) == done.summary


def test_voc_boxes_are_those_of_mmdetection(mini, tmp_path):
    root = mini("voc07")
    done = prepare("voc07", root, tmp_path / "out")
    for split, name in voc.SPLITS.items():
        theirs = VOCDataset(
            data_root=str(root),
            ann_file=f"VOC2007/ImageSets/Main/{name}.txt",
            data_prefix=dict(sub_data_root="VOC2007/"),
            test_mode=True,
        )
        ours = CocoDataset(
            ann_file=done.summary["splits"][split]["annotations"],
            data_prefix=dict(img=done.summary["splits"][split]["images"]),
            metainfo=dict(classes=voc.CLASSES),
            test_mode=True,
        )
        assert len(theirs) == len(ours)
        for index in range(len(ours)):
            a, b = theirs.get_data_info(index), ours.get_data_info(index)
            assert (a["width"], a["height"]) == (b["width"], b["height"])
            keys = ("bbox", "bbox_label", "ignore_flag")
            assert [[i[k] for k in keys] for i in a["instances"]] == [
                [i[k] for k in keys] for i in b["instances"]
            ]
    boxes = json.loads(Path(done.summary["splits"]["trainval07"]["annotations"]).read_text())
    first, (_, box) = boxes["annotations"][0], drawn(TRAIN)[0]
    # Pixels x to x + w - 1 are x + 1 to x + w in VOC: from x, and w - 1 wide.
    assert first["bbox"] == [box[0], box[1], box[2] - 1, box[3] - 1]
    difficult = [a for a in boxes["annotations"] if a["difficult"]]
    assert difficult and all(a["iscrowd"] == 1 for a in difficult)


def test_both_releases_of_bdd100k_give_the_same_boxes(tmp_path):
    labels, boxes, ignored = {}, {}, {}
    for form in ("bdd100k", "bdd100k_2018"):
        write_miniature(form, tmp_path / form, TRAIN, VAL)
        done = prepare("bdd100k", tmp_path / form, tmp_path / f"out_{form}")
        content = json.loads(Path(done.summary["splits"]["train"]["annotations"]).read_text())
        labels[form] = [a["category_id"] - 1 for a in content["annotations"]]
        boxes[form] = [a["bbox"] for a in content["annotations"]]
        ignored[form] = [a["iscrowd"] for a in content["annotations"]]
    # Image 7 has no labels, the last no frame.
    digits = drawn(i for i in TRAIN if i not in (7, TRAIN[-1]))
    assert labels["bdd100k_2018"] == [label for label, _ in digits]
    x, y, w, h = digits[0][1]
    # x1 = x + 0.125, x2 = x + w, and the last pixel as the authors' converter has it.
    assert boxes["bdd100k_2018"][0] == [x + 0.125, y + 0.5, w + 0.875, h + 0.5]
    assert boxes["bdd100k"] == boxes["bdd100k_2018"]
    # det_20: label 5 became "other vehicle", 6 "trailer", 8 a crowd; all are there, but ignored.
    assert [i + 1 for i, flag in enumerate(ignored["bdd100k"][:9]) if flag] == [5, 6, 8]
    assert labels["bdd100k"][4:6] == [2, 3] and not any(ignored["bdd100k_2018"])


def test_own_data_in_coco_layout_takes_the_order_of_the_classes(mini, tmp_path):
    root = mini("coco")
    done = prepare("own", root, tmp_path / "out", "skip", ["toothbrush", "person"])
    content = json.loads(Path(done.summary["splits"]["train2017"]["annotations"]).read_text())
    assert [c["name"] for c in content["categories"]] == ["toothbrush", "person"]
    wanted = [label for label, _ in drawn(i for i in TRAIN if i != 7) if label in (9, 0)]
    assert [a["category_id"] for a in content["annotations"]] == [1 if d else 2 for d in wanted]
    assert set(kinds(done)) == {"unknown class"} and done.report.balanced
    assert done.report.objects_reported > 10


def test_own_data_in_voc_layout_with_unicode_and_spaces(mini, tmp_path):
    root = mini("voc07") / "VOC2007"
    name = (root / "ImageSets/Main/test.txt").read_text().split()[0]
    for folder, suffix in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        (root / folder / (name + suffix)).rename(root / folder / f"straße 1 1{suffix}")
    (root / "ImageSets/Main/test.txt").write_text("straße 1 1\r\n")
    done = prepare("own", root, tmp_path / "out", classes=voc.CLASSES)
    assert done.summary["splits"]["test"]["count"] == 1 and not done.report.bad
    shutil.rmtree(root / "ImageSets")
    done = prepare("own", root, tmp_path / "out", classes=voc.CLASSES)
    assert done.summary["splits"]["all"]["count"] == 10


BAD_BOXES = {
    "box outside": [100, 100, 40, 10],
    "zero area": [10, 10, 0, 5],
    "not finite": [10, float("nan"), 5, 5],
    "no number": [10, "ten", 5, 5],
    "no box": [10, 10, 5],
}


@pytest.mark.parametrize("kind", BAD_BOXES)
@pytest.mark.parametrize("on_error", ["strict", "skip"])
def test_a_bad_box_is_one_line_with_file_and_id(mini, tmp_path, kind, on_error):
    root = mini("coco")
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][2]["bbox"] = BAD_BOXES[kind]
    file.write_text(json.dumps(content))
    done = prepare("coco", root, tmp_path / "out", on_error)
    (problem,) = done.report.bad
    assert problem.kind == kind
    assert str(problem).startswith("annotations/instances_train2017.json: annotation 3: ")
    assert str(problem) in (tmp_path / "out" / "report.txt").read_text()
    assert done.report.balanced and done.report.objects_reported == 1
    assert (done.summary is None) == (on_error == "strict")
    if on_error == "strict":
        assert os.listdir(tmp_path / "out") == ["report.txt"]
    else:
        found = COCO(done.summary["splits"]["train2017"]["annotations"])
        assert len(found.anns) == len(content["annotations"]) - 1


def test_a_box_may_reach_out_by_a_pixel(mini, tmp_path):
    root = mini("coco")
    file = root / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["bbox"] = [-1, 100, 20, 29]
    content["annotations"][1]["bbox"] = [100, 100, 29.01, 10]
    file.write_text(json.dumps(content))
    assert kinds(prepare("coco", root, tmp_path / "out")) == ["box outside"]


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "old, new, kind",
    [
        ("<annotation>", "<annotation", "no XML"),
        ("<annotation>", '<?xml version="1.0" encoding="nonsense"?><annotation>', "no XML"),
        ("<name>", "<name>my ", "unknown class"),
        (r"<xmin>[\d.]+", "<xmin>nan", "not finite"),
        (r"<xmin>[\d.]+", "<xmin>900", "zero area"),
        ("<difficult>0", "<difficult>perhaps", "difficult"),
        ("<width>128", "<width>64", "image size"),
        ("<width>128", "<width>0", "image size"),
    ],
)
def test_a_bad_xml_is_reported(mini, tmp_path, old, new, kind):
    root = mini("voc07")
    path = sorted((root / "VOC2007" / "Annotations").glob("*.xml"))[0]
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    done = prepare("voc07", root, tmp_path / "out", "skip")
    (problem,) = done.report.bad
    assert problem.kind == kind and problem.file == f"VOC2007/Annotations/{path.name}"
    assert done.report.balanced and done.summary
    assert prepare("voc07", root, tmp_path / "out").summary is None


def test_duplicate_ids_keep_the_first(mini, tmp_path):
    root = mini("coco")
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"].append(content["images"][0])
    content["annotations"].append(content["annotations"][0])
    file.write_text(json.dumps(content))
    done = prepare("coco", root, tmp_path / "out", "skip")
    assert kinds(done) == ["duplicate id", "duplicate id"] and done.report.balanced
    names = root / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"
    write_miniature("voc07", root, TRAIN, VAL)
    names.write_text(names.read_text() * 2)
    done = prepare("voc07", root, tmp_path / "out_voc", "skip")
    assert kinds(done) == ["duplicate id"] * len(TRAIN)
    assert done.summary["splits"]["trainval07"]["count"] == len(TRAIN)


def save_grey(path):
    Image.open(path).convert("L").save(path)


def save_cmyk(path):
    Image.open(path).convert("CMYK").save(path)


def save_sixteen(path):
    cv2.imwrite(str(path) + ".png", np.full((128, 128, 3), 4000, np.uint16))
    os.replace(str(path) + ".png", path)


def save_turned(path):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(path).resize((64, 128)).save(path, exif=exif)


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


DAMAGE = {
    "no image": lambda path: path.unlink(),
    "no image (loop)": loop,
    "no image (folder)": lambda path: (path.unlink(), path.mkdir()),
    "broken image": lambda path: path.write_bytes(path.read_bytes()[:-900]),
    "broken image (empty)": lambda path: path.write_bytes(b""),
    "16-bit image": save_sixteen,
    "image size": lambda path: Image.new("RGB", (128, 127)).save(path),
    "image format": lambda path: Image.new("RGB", (128, 128)).save(path, format="GIF"),
    "gray image": save_grey,
    "CMYK image": save_cmyk,
    "turned image": save_turned,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_image_is_one_line_and_takes_its_objects_along(mini, tmp_path, what):
    root = mini("coco")
    path = sorted((root / "train2017").iterdir())[0]
    DAMAGE[what](path)
    if what == "turned image":  # the annotation speaks of it as it is loaded
        file = root / "annotations" / "instances_train2017.json"
        rewrite(file, '"height": 128', '"height": 64')
    done = prepare("coco", root, tmp_path / "out", "skip")
    kind = what.partition(" (")[0]
    lines = [p for p in done.report.problems if p.kind == kind and path.name in str(p)]
    assert len(lines) == 1 and done.report.balanced
    kept = what in ("gray image", "CMYK image", "turned image")
    assert lines[0].bad != kept
    if kept:  # the loader of MMDetection gives three channels of the annotated size
        height = 64 if what == "turned image" else 128
        assert cv2.imread(str(path), cv2.IMREAD_COLOR).shape == (height, 128, 3)
    else:
        assert lines[0].objects > 0 and done.report.images_out == done.report.images_in - 1
        assert prepare("coco", root, tmp_path / "strict").summary is None


def test_an_empty_split_is_left_out(mini, tmp_path):
    root = mini("voc07")
    (root / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("\n")
    done = prepare("voc07", root, tmp_path / "out", "skip")
    assert kinds(done) == ["empty split"] and list(done.summary["splits"]) == ["trainval07"]


def test_the_archive_beside_the_tree_is_checked(mini, tmp_path, monkeypatch):
    root = mini("coco")
    with zipfile.ZipFile(root / archives.ARCHIVE, "w") as archive:
        for split in coco.SPLITS:
            name = f"annotations/instances_{split}.json"
            archive.write(root / name, name)
    assert kinds(prepare("coco", root, tmp_path / "out")) == ["checksum"]
    import hashlib

    digest = hashlib.md5((root / archives.ARCHIVE).read_bytes()).hexdigest()
    monkeypatch.setattr(archives, "ARCHIVE_MD5", digest)
    assert kinds(prepare("coco", root, tmp_path / "out")) == []
    rewrite(root / "annotations" / "instances_val2017.json", "2017", "2018")
    assert kinds(prepare("coco", root, tmp_path / "out")) == ["checksum"]


def test_the_flat_boxes_of_the_release_stop_nothing(mini, tmp_path):
    root = mini("coco")
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0].update(id=918, bbox=[29.65, 38.33, 1.03, 0.0], area=0.0)
    file.write_text(json.dumps(content))
    done = prepare("coco", root, tmp_path / "out")
    assert done.summary and done.report.objects_reported == 1 and done.report.balanced


@pytest.mark.parametrize(
    "layout, more, said",
    [
        ("coco", {}, "annotations_trainval2017.zip"),
        ("voc07", {}, "VOCtrainval_06-Nov-2007.tar"),
        ("bdd100k", {}, "det_train.json"),
        ("own", dict(classes=["a"]), "annotations/SPLIT.json"),
    ],
)
def test_what_to_fetch_is_said(tmp_path, layout, more, said):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=said.replace(".", r"\.")):
            prepare(layout, root, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more, said",
    [
        (dict(classes=["a", "a"]), "different names"),
        (dict(on_error="maybe"), "expected 'strict' or 'skip'"),
        (dict(layout="bdd100k", classes=["a"]), "leave out --classes"),
        (dict(turned="left"), "expected 'stored' or 'shown'"),
        (dict(flags=["zero_based"]), "expected flags out of"),
        (dict(drop=["unicorn"]), "--drop unicorn: no object has this class"),
        (dict(val_fraction=0.5), "expected a data set of one split, got train2017, val2017"),
        (dict(out="data/out"), "outside of the data set"),
        (dict(out="mine"), "has a folder images of its own"),
    ],
)
def test_contradicting_arguments_are_refused(mini, tmp_path, more, said):
    arguments = dict(layout="coco", root=mini("coco"), out=tmp_path / "out") | more
    arguments["out"] = tmp_path / arguments["out"]
    (tmp_path / "mine" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match=said):
        prepare(**arguments)


def test_the_command_lists_problems_and_exits_1(mini, tmp_path, monkeypatch):
    root = mini("bdd100k")
    file = root / "labels" / "det_20" / "det_val.json"
    frames = json.loads(file.read_text())
    frames[0]["labels"][0]["category"] = "spaceship"
    file.write_text(json.dumps(frames))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    done = CliRunner().invoke(cli, ["data", "bdd100k", "--root", str(root)])
    assert done.exit_code == 1
    line = f"labels/det_20/det_val.json: image {frames[0]['name']}, label 1: unknown class"
    assert line in done.output and "--on-error skip" in done.output
    done = CliRunner().invoke(cli, ["data", "bdd100k", "--root", str(root), "--on-error", "skip"])
    assert done.exit_code == 0 and line in done.output and "traffic light" in done.output
    assert "1 reported" in done.output and "_base_/bdd100k.py" in done.output


def test_options_name_every_place_of_a_config(mini, tmp_path):
    done = prepare("own", mini("coco"), tmp_path / "out", "skip", ["person"])
    options = config_options(done.summary)
    assert {key.partition(".")[0] for key in options} == {
        "train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator",
    }  # fmt: skip
    assert options["test_dataloader.dataset.metainfo.classes"] == ("person",)
    assert all(os.path.exists(v) for k, v in options.items() if "classes" not in k)


def test_a_single_split_is_warned_of(mini, tmp_path):
    assert one_split(prepare("coco", mini("coco"), tmp_path / "out").summary) is None
    alone = dict(splits=dict(train2017=dict()))
    assert "no split to validate on beside 'train2017'" in one_split(alone)


def test_an_object_of_a_bad_image_and_a_bad_class_is_counted_once(mini, tmp_path):
    root = mini("coco")
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    first = content["annotations"][0]
    next(i for i in content["images"] if i["id"] == first["image_id"])["file_name"] = "../../x.jpg"
    next(c for c in content["categories"] if c["id"] == first["category_id"])["name"] = None
    file.write_text(json.dumps(content))
    done = prepare("coco", root, tmp_path / "out", "skip")
    assert sorted(kinds(done)) == ["file name", "unknown class"] and done.report.balanced
