"""Kinds that were found by trying more of them: missed splits, keys twice, odd numbers."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from small_data import (
    ANN,
    CAT,
    HEIGHT,
    JSON,
    TABLE,
    WIDTH,
    bdd,
    box,
    check_case,
    coco,
    frames,
    image,
    label,
    objects_of,
    thing,
    write,
    xml,
    yolo,
)

from gdetkd.datasets.prepare import prepare

ONE = {"a.jpg": [CAT]}
GIF = b"GIF89a\x01\0\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"  # a pixel
HALF = {"a.jpg": [("cat", [36, 24, 24, 16])]}
SIZED = "filename,width,height,class,xmin,ymin,xmax,ymax\n{}.jpg,96,64,cat,10,12,30,28\n"
VAL = {JSON: coco(file="v.jpg"), "val/v.jpg": None}
DEVKIT = {"{0}/a.xml": xml(thing()), "{0}/v.xml": xml(thing(), file="v.jpg"),
          "{1}/a.jpg": None, "{1}/v.jpg": None}  # fmt: skip


def devkit(lists, annotations="Annotations", images="JPEGImages", suffix="txt"):
    files = {name.format(annotations, images): text for name, text in DEVKIT.items()}
    return files | {f"{lists}/train.{suffix}": "a\n", f"{lists}/valid.{suffix}": "v\n"}


# case -> what `check_case` wants: files, bad kinds, kinds of remarks, what is trained on
CASES = {
    # Splits.
    "a table in each split's folder": (
        {"train/_annotations.csv": SIZED.format("a"), "valid/_annotations.csv": SIZED.format("a"),
         "train/a.jpg": None, "valid/a.jpg": None}, set(), set(), ONE),
    "a file for validation without the prefix of the others": (
        {"annotations/instances_train.json": coco(), "train/a.jpg": None, **VAL},
        set(), set(), ONE),
    "keypoints beside the boxes of their split": (
        {"annotations/instances_train.json": coco(), "train/a.jpg": None,
         "annotations/keypoints_train.json": coco(), **VAL}, set(), {"other content"}, ONE),
    "images of a test without annotations": (
        {ANN: coco(), "annotations/image_info_test.json": dict(images=[]), "train/a.jpg": None,
         **VAL}, set(), {"other content"}, ONE),
    "captions of a split without boxes": (
        {ANN: coco(), "train/a.jpg": None, "annotations/captions_val.json": dict(
            images=[], annotations=[dict(id=1, image_id=1, caption="a cat")])},
        set(), {"other content"}, ONE),
    "a broken file that is for no split": (
        {ANN: coco(), "annotations/bad.json": "{", "train/a.jpg": None}, {"no JSON"}, set(), ONE),
    "lists for segmentation alone": (
        devkit("ImageSets/Segmentation"), set(), set(), ONE),
    "folders of VOC in small letters": (
        devkit("imagesets/main", "annotations", "jpegimages"), set(), set(), ONE),
    "lists in capitals": (devkit("ImageSets/Main", suffix="TXT"), set(), set(), ONE),
    "keys of YAML in capitals, another word for validation": (
        yolo("0 .5 .5 .25 .25", "Train: images/train\ndev: images/held\n", "Names: [cat, dog]\n")
        | {"images/held/h.jpg": None, "labels/held/h.txt": "1 .5 .5 .1 .1", "labels/val/v.txt": ""},
        {"no image"}, set(), HALF),
    "a folder for validation that is not there": (
        yolo("0 .5 .5 .25 .25", "train: images/train\nval: images/nope\n"),
        {"missing split"}, set(), None),
    "annotations/ in each split's folder": (
        {"train/annotations/boxes.json": coco(), "train/images/a.jpg": None,
         "val/annotations/boxes.json": coco(file="v.jpg"), "val/images/v.jpg": None},
        set(), set(), ONE),
    "a folder for each split in annotations/": (
        {"annotations/train/boxes.json": coco(), "images/train/a.jpg": None,
         "annotations/val/boxes.json": coco(), "images/val/a.jpg": None}, set(), set(), ONE),
    "one file for the images of several splits' folders": (
        {"all.json": coco(file="train/a.jpg") | dict(images=[
            dict(id=1, file_name="train/a.jpg"), dict(id=2, file_name="val/v.jpg")]),
         "train/a.jpg": None, "val/v.jpg": None}, set(), {"mixed splits"}, ONE),
    "an image of another format than those read, with XML": (
        {"a.xml": xml(thing()), "a.gif": GIF, "b.xml": xml(thing()), "b.jpg": None},
        {"image format"}, set(), {"b.jpg": [CAT]}),
    "an image of another format than those read, in a table": (
        {"train.csv": f"{TABLE}\na,cat,10,12,30,28\nb,cat,10,12,30,28\n", "images/a.gif": GIF,
         "images/b.jpg": None}, {"image format"}, set(), {"b.jpg": [CAT]}),
    # Names and numbers.
    "a key twice": (
        {ANN: json.dumps(coco())[:-1] + ', "annotations": []}', "train/a.jpg": None, **VAL},
        {"no JSON", "empty split"}, set(), None),
    "numbers as names": (
        {ANN: coco(categories=(1, 2)), "train/a.jpg": None},
        {"unknown class", "nothing to train on"}, set(), None),  # by name: "'1' is none of ..."
    "a category twice that differs in its group alone": (
        {ANN: coco() | dict(categories=[dict(id=1, name="cat"), dict(
            id=1, name="cat", supercategory="pet")]), "train/a.jpg": None},
        {"duplicate id"}, set(), ONE),
    "numbers of names in quotes": (
        yolo("0 .5 .5 .25 .25", names="names: {'1': dog, '0': cat}\n"), set(), set(), HALF),
    "numbers of names from 1": (
        yolo("1 .5 .5 .25 .25", names="names: {1: cat, 2: dog}\n"), {"layout"}, set(), None),
    # Boxes and masks.
    "some boxes in fractions": (
        {ANN: coco(box(), box(id=2, bbox=[0.1, 0.1, 0.5, 0.5])), "train/a.jpg": None},
        {"relative box"}, set(), ONE),
    "some rows in fractions": (
        {"train.csv": f"{TABLE}\na.jpg,cat,10,12,30,28\na.jpg,cat,.1,.1,.5,.5\n", "a.jpg": None},
        {"relative box"}, set(), ONE),
    "polygons beside their boxes": (
        {ANN: coco(box(segmentation=[[200, 200, 300, 200, 300, 300]]),
                   box(id=2, bbox=[40, 12, 20, 16], segmentation=[[0.1, 0.1, 0.3, 0.1, 0.3, 0.3]])),
         "train/a.jpg": None}, set(), {"segmentation"},
        {"a.jpg": [CAT, ("cat", [40, 12, 20, 16])]}),
    "an object in another one": (
        {"a.xml": xml(thing(more=thing((40, 13, 60, 28), name="dog"))), "a.jpg": None},
        set(), set(), {"a.jpg": [CAT, ("dog", [39, 12, 21, 16])]}),
    "boxes in a wrapper, and those of parts": (
        {"a.xml": xml(thing().replace("<bndbox>", "<boxes><bndbox>")
                      .replace("</bndbox>", "</bndbox></boxes>"),
                      thing((40, 13, 60, 28), "<part><bndbox><xmin>1</xmin></bndbox></part>")),
         "a.jpg": None}, set(), set(), {"a.jpg": [CAT, ("cat", [39, 12, 21, 16])]}),
    "an XML file in UTF-16": (
        {"a.xml": xml(thing()).encode("utf-16"), "a.jpg": None}, set(), set(), ONE),
    "a key twice in a frame": (
        bdd() | {"labels/det_20/det_train.json": '[{"name": "a.jpg", "name": "b.jpg"}]'},
        {"no JSON", "empty split"}, set(), None),
    "a frame twice": (
        bdd() | {"labels/det_20/det_train.json": frames(label()) * 2},
        {"one file, several images", "empty split"}, set(), None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_kind_that_was_found(case, tmp_path):
    write(tmp_path / "data", CASES[case][0])
    check_case(tmp_path / "data", tmp_path, *CASES[case])


def test_a_missing_split_is_named_and_not_the_whole_layout(tmp_path):
    write(tmp_path / "data", CASES["a folder for validation that is not there"][0])
    done = prepare("own", tmp_path / "data", tmp_path / "out")
    assert [str(problem) for problem in done.report.bad] == [
        f"data.yaml: missing split: 'images/nope': no such folder or list below {tmp_path / 'data'}"
    ]


def test_a_second_file_of_a_split_is_asked_for_and_not_lost(tmp_path):
    files = {f"train/{name}.json": coco(file=f"{name}.jpg") for name in "ab"}
    write(tmp_path / "data", files | {"train/a.jpg": None, "train/b.jpg": None})
    with pytest.raises(ValueError, match="several splits are for train .*: train/a, train/b; say"):
        prepare("own", tmp_path / "data", tmp_path / "out", classes=["cat"])
    done = prepare("own", tmp_path / "data", tmp_path / "out", classes=["cat"], train="train/a",
                   val="train/b")  # fmt: skip
    assert objects_of(done.summary) == ONE and done.report.balanced


def test_names_that_are_numbers_are_taken_where_they_are_wanted(tmp_path):
    write(tmp_path / "data", CASES["numbers as names"][0])
    done = prepare("own", tmp_path / "data", tmp_path / "out", classes=["1", "2"])
    assert objects_of(done.summary) == {"a.jpg": [("1", CAT[1])]}


def test_run_lengths_of_a_turned_image_are_left_out_with_a_remark(tmp_path):
    counts = dict(size=[HEIGHT, WIDTH], counts=[WIDTH * HEIGHT - 9, 9])
    one = box(bbox=[70, 10, 20, 16], segmentation=counts)
    write(tmp_path / "data", {ANN: coco(one, width=WIDTH, height=HEIGHT)})
    image(tmp_path / "data" / "train" / "a.jpg", turn=6)
    done = prepare("own", tmp_path / "data", tmp_path / "out", classes=["cat"])
    assert [p.kind for p in done.report.problems if p.item] == ["segmentation", "turned image"]
    assert objects_of(done.summary) == {"a.jpg": [("cat", [38, 70, 16, 20])]}


@pytest.mark.parametrize(
    "files, said",
    [
        ({"a.json": {"shapes": [], "imagePath": "a.jpg"}}, "a.json with the keys 'shapes', 'imag"),
        ({"t.csv": "image,label,x_center\n"}, "t.csv that begins with 'image,label,x_center'"),
        ({"odd/x.json": "{"}, "odd/x.json (no JSON: JSONDecodeError: Expecting property"),
    ],
)
def test_what_an_unreadable_file_holds_is_said(files, said, tmp_path):
    write(tmp_path / "data", files)
    with pytest.raises(FileNotFoundError) as error:
        prepare("own", tmp_path / "data", tmp_path / "out", classes=["cat"])
    assert said in str(error.value)


def test_what_the_report_says_of_classes_and_pictures(tmp_path):
    """The nearest name, images that nothing speaks of, images without objects, a palette."""
    images = [dict(id=1, file_name="a.png"), dict(id=2, file_name="b.jpg")]
    content = coco(box(), box(id=2, category_id=2), categories=("cat", "Dogs")) | dict(
        images=images
    )
    write(tmp_path / "data", {ANN: content, "train/b.jpg": None, "train/c.jpg": None})
    Image.new("P", (WIDTH, HEIGHT)).save(tmp_path / "data" / "train" / "a.png")
    done = prepare("own", tmp_path / "data", tmp_path / "out", "skip", ["cat", "dog"])
    said = {problem.kind: problem for problem in done.report.problems}
    assert said["unknown class"].text == "'Dogs' is none of the 2 classes; did you mean 'dog'?"
    assert said["no labels"].text.startswith("1 images are in no annotation")
    assert said["no objects"].text.startswith("1 of 2 images have none")
    assert said["palette image"].file == "train/a.png" and not said["palette image"].bad
    written = json.loads((tmp_path / "out" / "annotations" / "train.json").read_text())
    assert isinstance(written["info"]["version"], str)
