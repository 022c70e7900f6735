"""More of each kind of input that once went wrong, layout by layout: a few lines of data each."""

from __future__ import annotations

import pytest
from small_data import (
    ANN,
    CAT,
    HEIGHT,
    JSON,
    ROW,
    RUNS,
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

# case -> what `check_case` wants: files, bad kinds, kinds of remarks, what is trained on
ONE = {"a.jpg": [CAT]}
CASES = {
    # COCO: ids, names of files, masks, flags.
    "whole ids written as floats": (
        {ANN: coco(box(image_id=1.0, category_id=1.0), width=96.0, height=64.0),
         "train/a.jpg": None}, set(), set(), ONE),
    "ids in quotes": (
        {ANN: coco(box(id="7", category_id="1", image_id="1")), "train/a.jpg": None},
        set(), set(), ONE),
    "ids that are texts, in an order of their own": (
        {ANN: dict(images=[dict(id="b.jpg", file_name="b.jpg"), dict(id="a", file_name="a.jpg")],
                   annotations=[box(id="x", image_id="a", category_id="z")],
                   categories=[dict(id="z", name="cat"), dict(id="b", name="dog")]),
         "train/a.jpg": None, "train/b.jpg": None}, set(), {"new ids"}, ONE),
    "objects without ids, or with others than whole numbers": (
        {ANN: coco(box(id=None), box(id=-3, bbox=[1, 1, 9, 9]), box(id=10**30, bbox=[1, 1, 8, 8])),
         "train/a.jpg": None}, set(), {"new ids"},
        {"a.jpg": [CAT, ("cat", [1, 1, 9, 9]), ("cat", [1, 1, 8, 8])]}),
    "one id as a number and in quotes for two classes": (
        {ANN: coco(box(category_id="1"), box(id=2)) | dict(categories=[
            dict(id="1", name="cat"), dict(id=1, name="dog")]), "train/a.jpg": None},
        {"ambiguous id", "nothing to train on"}, set(), None),
    "one id as a number and in quotes for two objects": (
        {ANN: coco(box(), box(id=2), box(id="2", bbox=[1, 1, 9, 9])), "train/a.jpg": None},
        {"ambiguous id"}, set(), ONE),
    "a path of Windows": (
        {ANN: coco(file="C:\\me\\train\\a.jpg"), "train/a.jpg": None}, set(), {"file name"}, ONE),
    "a path of another machine": (
        {ANN: coco(file="/srv/me/set/train/a.jpg"), "train/a.jpg": None},
        set(), {"file name"}, ONE),
    "a URL of a labeling tool": (
        {ANN: coco(file="/data/local-files/?d=train/a.jpg"), "train/a.jpg": None},
        set(), {"file name"}, ONE),
    "a quoted space": (
        {ANN: coco(file="a%20b.jpg"), "train/a b.jpg": None},
        set(), {"file name"}, {"a b.jpg": [CAT]}),
    "an accent in two forms": (
        {ANN: coco(file="e\u0301.jpg"), "train/\u00e9.jpg": None},
        set(), {"file name"}, {"\u00e9.jpg": [CAT]}),
    "another suffix": (
        {ANN: coco(file="a.PNG"), "train/a.jpg": None}, set(), {"file name"}, ONE),
    "the picture of another split": (
        {ANN: coco(file="v.jpg"), JSON: coco(file="v.jpg"), "val/v.jpg": None, "train/a.jpg": None},
        {"no image", "empty split"}, set(), None),
    "one name in two folders": (
        {"all.json": coco(), "x/a.jpg": None, "y/a.jpg": None},
        {"ambiguous image", "empty split"}, set(), None),
    "run lengths of another image": (
        {ANN: coco(box(segmentation=dict(size=[64, 96], counts=[5, 6])), width=96, height=64),
         "train/a.jpg": None}, set(), {"segmentation"}, ONE),
    "a cut run-length text": (
        {ANN: coco(box(segmentation=dict(size=[64, 96], counts=RUNS[:-3])), width=96, height=64),
         "train/a.jpg": None}, set(), {"segmentation"}, ONE),
    "corners in place of sizes": (
        {ANN: coco(box(bbox=[60, 40, 80, 60]), box(id=2, bbox=[10, 10, 20, 20])),
         "train/a.jpg": None}, {"corners as sizes", "nothing to train on"}, set(), None),
    "a flag that is no flag": (
        {ANN: coco(box(iscrowd="perhaps"), box(id=2)), "train/a.jpg": None},
        {"iscrowd"}, set(), ONE),
    "classes that differ in capitals": (
        {ANN: coco(categories=("cat", "Cat")),
         JSON: coco(box(category_id=2), categories=("cat", "Cat"), file="v.jpg"),
         "train/a.jpg": None, "val/v.jpg": None},
        {"unknown class", "nothing to measure"}, {"unused class"}, ONE),
    # Splits.
    "copies under other names": (
        {ANN: coco(), JSON: coco(file="b.jpg"), "train/a.jpg": b"", "val/b.jpg": b""},
        set(), {"overlapping splits"}, ONE),
    "a part that is in no split": (
        {"boxes.csv": f"{TABLE},split\n{ROW[:-1]},Train\nv.jpg,cat,1,1,9,9,dev\n"
                      "b.jpg,cat,1,1,9,9,\n",
         "a.jpg": None, "v.jpg": None, "b.jpg": None}, set(), {"unused split"}, ONE),
    "a split for validation without objects": (
        {ANN: coco(), JSON: coco(file="v.jpg") | dict(annotations=[]), "train/a.jpg": None,
         "val/v.jpg": None}, {"nothing to measure"}, set(), ONE),
    "a split for tests with ignored objects alone": (
        {f"{split}.csv": f"{TABLE},ignore\n{name}.jpg,cat,10,12,30,28,{int(split == 'test')}\n"
         for split, name in (("train", "a"), ("val", "v"), ("test", "t"))}
        | {"a.jpg": None, "v.jpg": None, "t.jpg": None}, {"nothing to measure"}, set(), ONE),
    # VOC.
    "lists in ImageSets itself, with paths": (
        {"ImageSets/Train.txt": "JPEGImages/a.jpg\n", "ImageSets/Valid.txt": "./v.jpg\n",
         "Annotations/a.xml": xml(thing()), "Annotations/v.xml": xml(thing(), file="v.jpg"),
         "JPEGImages/a.jpg": None, "JPEGImages/v.jpg": None}, set(), set(), ONE),
    "an XML file in no list": (
        {"ImageSets/Main/train.txt": "a\n", "Annotations/a.xml": xml(thing()),
         "Annotations/b.xml": xml(thing(), file="b.jpg"), "JPEGImages/a.jpg": None,
         "JPEGImages/b.jpg": None}, set(), {"unlisted"}, ONE),
    "a devkit beside another": (
        {f"VOC{year}/{name}": content for year in (2007, 2012) for name, content in
         {"Annotations/a.xml": xml(thing()), "JPEGImages/a.jpg": None}.items()},
        set(), {"unlisted"}, ONE),
    "a folder of VOC for each split": (
        {"train/Annotations/a.xml": xml(thing()), "train/JPEGImages/a.jpg": None,
         "valid/Annotations/v.xml": xml(thing(), file="v.jpg"), "valid/JPEGImages/v.jpg": None},
        set(), set(), ONE),
    "an XML file whose image is in another split": (
        {"train/a.xml": xml(thing()), "val/v.xml": xml(thing(), file="v.jpg"), "val/a.jpg": None,
         "val/v.jpg": None}, {"no image", "empty split"}, set(), None),
    "two values of a corner": (
        {"a.xml": xml(thing(), thing().replace("<ymin>", "<xmin>50</xmin><ymin>")), "a.jpg": None},
        {"ambiguous box"}, set(), ONE),
    "ignored objects of VOC": (
        {"a.xml": xml(thing(), thing((1, 1, 9, 9), "<ignore>1</ignore>"),
                      thing((1, 1, 8, 8), "<difficult>true</difficult>")), "a.jpg": None},
        set(), {"ignored object"}, ONE),
    # YOLO.
    "the same folder for both splits": (
        yolo("0 .5 .5 .25 .25", "train: images/train\nval: images/train\n")
        | {"labels/val/v.txt": ""},
        {"no image"}, {"overlapping splits"}, {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "classes counted from 1": (
        yolo("1 .5 .5 .25 .25\n2 .5 .5 .1 .1") | {"labels/val/v.txt": ""},
        {"unknown class", "shifted classes", "nothing to train on"}, set(), None),
    "keypoints behind the box": (
        yolo("0 .5 .5 .25 .25 .4 .4 .5 .5", names="names: [cat, dog]\nkpt_shape: [2, 2]\n"),
        set(), set(), {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "names that YAML takes for true and false": (
        yolo("0 .5 .5 .25 .25", names="names: [yes, no]\n"), {"layout"}, set(), None),
    "a name twice": (
        yolo("1 .5 .5 .25 .25", names="names: [cat, cat]\n"), set(), {"shared name"},
        {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "another data.yaml beside": (
        yolo("0 .5 .5 .25 .25") | {"coco8.yaml": "names: [dog, cat]\ntrain: images/val\n"},
        set(), {"other content"}, {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "two YAML files and nothing to choose by": (
        {"x.yaml": "names: [cat]\n", "y.yaml": "names: [dog]\n", "images/train/a.jpg": None},
        {"several files"}, set(), None),
    "names in two files": (
        yolo("0 .5 .5 .25 .25") | {"classes.txt": "dog\ncat\n"}, set(), {"other names"},
        {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "labels of two images": (
        yolo("0 .5 .5 .25 .25") | {"images/train/a.png": None},
        {"one label file, several images", "empty split"}, set(), None),
    "folders and suffixes in capitals": (
        {"Images/Train/a.JPG": None, "Labels/Train/a.TXT": "0 .5 .5 .25 .25",
         "classes.txt": "cat\ndog"},
        set(), set(), {"a.JPG": [("cat", [36, 24, 24, 16])]}),
    "a split for tests that is not there": (
        yolo("0 .5 .5 .25 .25", "train: images/train\nval: images/val\ntest: ../test/images\n"),
        set(), {"missing split"}, {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "lists of Darknet": (
        {"train.txt": "data/obj/a.jpg\n", "valid.txt": "/x/obj/v.jpg\n", "obj.names": "cat\ndog\n",
         "obj/a.jpg": None, "obj/v.jpg": None, "obj/a.txt": "0 .5 .5 .25 .25",
         "obj/v.txt": "1 .5 .5 .1 .1"},
        set(), set(), {"a.jpg": [("cat", [36, 24, 24, 16])]}),
    "a line twice": (
        yolo("0 .5 .5 .25 .25\n0 .5 .5 .25 .25"), set(), {"repeated objects"},
        {"a.jpg": [("cat", [36, 24, 24, 16])] * 2}),
    # CSV.
    "a decimal comma": (
        {"train.csv": f"{TABLE}\n{ROW}".replace(",", ";").replace("10;", "10,0;"), "a.jpg": None},
        set(), set(), ONE),
    "a column twice": (
        {"train.csv": f"{TABLE},class\n{ROW[:-1]},dog\n", "a.jpg": None}, {"header"}, set(), None),
    "one name in two folders of a table": (
        {"train.csv": f"{TABLE}\n{ROW}", "x/a.jpg": None, "y/a.jpg": None},
        {"ambiguous image", "empty split"}, set(), None),
    "a table whose image is in another split": (
        {"train.csv": f"{TABLE}\n{ROW}v.jpg,cat,1,1,9,9\n", "train/a.jpg": None, "val/v.jpg": None},
        {"no image"}, set(), ONE),
    "a name that is there in capitals, too": (
        {"train.csv": f"{TABLE}\n{ROW.replace('.jpg', '')}", "x/a.jpg": None, "x/A.jpg": None},
        set(), set(), ONE),
    "an ignored row": (
        {"train.csv": f"{TABLE},ignore\n{ROW[:-1]},0\na.jpg,cat,1,1,9,9,1\n", "a.jpg": None},
        set(), {"ignored object"}, ONE),
    "corners as width and height": (
        {"train.csv": "image,label,x,y,w,h\na.jpg,cat,60,40,80,60\na.jpg,cat,5,5,20,20\n",
         "a.jpg": None}, {"corners as sizes", "nothing to train on"}, set(), None),
    # BDD100K.
    "ignored labels": (
        bdd(label(), label(id="2", attributes=dict(ignored=True)), label(id="3", ignore=1),
            label(id="4", attributes=dict(crowd="true"))), set(), set(),
        {"a.jpg": [("car", [10, 12, 20, 16])]}),
    "a crowd that is no flag": (
        bdd(label(), label(id="2", attributes=dict(crowd="many"))), {"crowd"}, set(),
        {"a.jpg": [("car", [10, 12, 20, 16])]}),
    "both releases": (
        bdd(label()) | {"labels/bdd100k_labels_images_train.json": frames(label(category="bus"))},
        set(), {"other content"}, {"a.jpg": [("car", [10, 12, 20, 16])]}),
    "fractions": (
        bdd(label(box2d=dict(x1=0.1, y1=0.1, x2=0.5, y2=0.5))),
        {"relative boxes", "nothing to train on"}, set(), None),
    "a class in capitals": (
        bdd(label(), label(id="2", category="Car")), {"unknown class"}, set(),
        {"a.jpg": [("car", [10, 12, 20, 16])]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_kind_in_each_layout(case, tmp_path):
    root = tmp_path / "data"
    write(root, CASES[case][0])
    if case == "copies under other names":
        image(root / "train" / "a.jpg")
        (root / "val" / "b.jpg").write_bytes((root / "train" / "a.jpg").read_bytes())
    check_case(root, tmp_path, *CASES[case])


def test_one_bad_id_is_one_line_whatever_refers_to_it(tmp_path):
    content = coco(*(box(id=n) for n in range(1, 9)), box(id=9, image_id="x"))
    content["images"] *= 2
    content["images"][0] = dict(content["images"][0], file_name="b.jpg")
    write(tmp_path / "data", {ANN: content, "train/a.jpg": None})
    done = prepare("coco", tmp_path / "data", tmp_path / "out", "skip", ["cat"])
    (line,) = [p for p in done.report.bad if p.kind == "ambiguous id"]
    assert str(line).startswith(f"{ANN}: image 1: ambiguous id: id 1 stands for 2 of them ('b.jpg'")
    assert line.objects == 8 and done.report.balanced


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("stated", ["stored", "shown", None])
def test_a_stated_size_does_not_hide_how_boxes_are_meant(turn, stated, tmp_path):
    """A box that fits one reading alone decides, whatever size is stated; no box lies outside."""
    image(tmp_path / "data" / "train" / "a.jpg", turn)
    upright = turn >= 5
    shown = (HEIGHT, WIDTH) if upright else (WIDTH, HEIGHT)
    size = dict(stored=(WIDTH, HEIGHT), shown=shown).get(stated)
    size = dict(width=size[0], height=size[1]) if size else {}
    write(tmp_path / "data", {ANN: coco(box(bbox=[70, 10, 20, 16]), **size)})
    done = prepare("own", tmp_path / "data", tmp_path / "out", classes=["cat", "dog"])
    if not upright:
        # Turned by half or mirrored: any box fits either way.
        wanted = {"a.jpg": [("cat", [70, 10, 20, 16])]}
        assert done.summary is None or objects_of(done.summary) == wanted
        assert (done.summary is None) == ("turned image" in {p.kind for p in done.report.bad})
        return
    ((_, (x, y, w, h)),) = objects_of(done.summary)["a.jpg"]
    assert (w, h) == (16, 20) and 0 <= x <= HEIGHT - w and 0 <= y <= WIDTH - h
