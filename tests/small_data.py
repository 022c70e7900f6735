"""Data sets of a picture or two, written in a line or two, and what comes of them."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from pycocotools import mask

from gdetkd.datasets.prepare import prepare

WIDTH, HEIGHT = 96, 64
CAT = ("cat", [10.0, 12.0, 20.0, 16.0])  # what most cases hold


def image(path, turn=None, size=(WIDTH, HEIGHT)):
    """A picture of its own content, by its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turn:
        exif[274] = turn
    seed = sum(str(path).encode())
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def write(root, files):
    """Files by path: text, bytes or content of JSON; None for an image."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            image(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))


def box(**changes):
    return dict(dict(id=1, image_id=1, category_id=1, bbox=[10, 12, 20, 16]), **changes)


def coco(*annotations, file="a.jpg", categories=("cat", "dog"), **size):
    names = [dict(id=n, name=name) for n, name in enumerate(categories, start=1)]
    images = [dict(id=1, file_name=file, **size)]
    return dict(images=images, annotations=list(annotations or [box()]), categories=names)


def xml(*objects, file="a.jpg"):
    return f"<annotation><filename>{file}</filename>{''.join(objects)}</annotation>"


def thing(corners=(11, 13, 30, 28), more="", name="cat"):
    keys = ("xmin", "ymin", "xmax", "ymax")
    text = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{text}</bndbox></object>"


def frames(*labels, name="a.jpg"):
    return [dict(name=name, labels=list(labels))]


def label(**changes):
    sides = dict(x1=10, y1=12, x2=29, y2=27)
    return dict(dict(id="1", category="car", box2d=sides), **changes)


def bdd(*labels, **more):
    files = {"labels/det_20/det_train.json": frames(*labels),
             "labels/det_20/det_val.json": frames(label(), name="v.jpg"),
             "images/100k/train/a.jpg": None, "images/100k/val/v.jpg": None}  # fmt: skip
    return files | more


def yolo(train, head="train: images/train\nval: images/val\n", names="names: [cat, dog]\n", **more):
    files = {"images/train/a.jpg": None, "images/val/v.jpg": None, "labels/train/a.txt": train,
             "labels/val/v.txt": "0 .5 .5 .25 .25\n", "data.yaml": head + names}  # fmt: skip
    return files | more


ANN, JSON = "annotations/train.json", "annotations/val.json"
TABLE = "filename,class,xmin,ymin,xmax,ymax"
ROW = "a.jpg,cat,10,12,30,28\n"
RUNS = mask.encode(np.asfortranarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8)))["counts"].decode()


def objects_of(summary):
    """{image: [(class, box)]} of the split to train on, without those that are ignored."""
    entry = summary["splits"][summary["stages"]["train"]]
    with open(entry["annotations"]) as file:
        content = json.load(file)
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = {i["id"]: (i["file_name"].rpartition("/")[2], []) for i in content["images"]}
    for one in content["annotations"]:
        if not one["iscrowd"]:
            found[one["image_id"]][1].append((names[one["category_id"]], one["bbox"]))
    return dict(found.values())


def check_case(root, tmp_path, files, bad, remarks, wanted, **choices):
    """Convert the written files in both modes and compare with what is right.

    Args:
        files: The files, of which the layout and whether it has classes of its own follow.
        bad: Kinds that stop the strict mode.
        remarks: Kinds of remarks; others are not asked for.
        wanted: {image: [(class, box)]} of the split trained on with --on-error skip; None where
            nothing is written.
    """
    layout = "bdd100k" if "labels/det_20/det_train.json" in files else "own"
    classes = None if layout == "bdd100k" else ["cat", "dog"]
    if "data.yaml" in files or "x.yaml" in files:
        classes = None  # the file has them
    last = 1 if any(name.endswith(".xml") for name in files) else 0  # VOC's lack the last pixel
    for on_error in ("strict", "skip"):
        done = prepare(layout, root, tmp_path / on_error, on_error, classes, **choices)
        assert done.report.balanced
        assert {p.kind for p in done.report.bad} == bad, list(map(str, done.report.problems))
        assert remarks <= {p.kind for p in done.report.problems if not p.bad}
        if on_error == "strict":
            assert (done.summary is None) == bool(bad)
    if wanted is None:
        assert done.summary is None and not (tmp_path / "skip" / "annotations").exists()
        return
    found = {name: part for name, part in objects_of(done.summary).items() if part}
    assert found == {
        name: [(kind, [x, y, w - last, h - last]) for kind, (x, y, w, h) in part]
        for name, part in wanted.items()
    }
