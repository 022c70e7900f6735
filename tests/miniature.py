"""Thirty images of digits in the true layout of each kind that `gdetkd data` reads.

COCO, VOC2007 and both releases of BDD100K come with their odd corners; own data as a YOLO export,
CSV tables, VOC's XML beside the images, and one JSON file in COCO's format.

For trying a whole pipeline, `gdetkd data`, training, test and export, in a minute:
`python tests/miniature.py coco data/miniature/coco`. Digit d stands for the class
`STAND_INS[format][d]`; images 0 to 19 are for training, 20 to 29 for validation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

from gdetkd.datasets.digits import (
    IMAGE_SIZE,
    Digit,
    draw_digits,
    load_glyphs,
    load_photos,
    render,
)
from gdetkd.datasets.embedded import run_lengths
from gdetkd.datasets.readers import bdd100k, coco, voc

TRAIN, VAL = range(20), range(20, 30)
COCO_IDS = (1, 2, 3, 13, 27, 44, 62, 67, 84, 90)  # over the gaps, to the very last
STAND_INS = {
    "coco": tuple(coco.CLASSES[number] for number in COCO_IDS),
    "voc07": voc.CLASSES[::2],
    "bdd100k": bdd100k.CLASSES,
    "bdd100k_2018": bdd100k.CLASSES,
    **dict.fromkeys(
        ("yolo", "csv", "xml", "json"), tuple(coco.CLASSES[number] for number in COCO_IDS)
    ),
}
NAMES_2018 = {new: old for old, new in bdd100k.OTHER_NAMES.items() if old not in ("caravan", "van")}


Drawn = dict[int, tuple[np.ndarray, list[Digit]]]


def write_miniature(form: str, root: Path, train: range = TRAIN, val: range = VAL) -> None:
    """Write images and annotations; `form` is one of `STAND_INS`, the ranges number the images."""
    glyphs, photos = load_glyphs(), load_photos()
    drawn: Drawn = {}
    for index in (*train, *val):
        digits = draw_digits(0, "train", index, glyphs)
        drawn[index] = render(0, "train", index, digits, glyphs, photos), digits
    if form == "coco":
        _write_coco(root, drawn, train, val)
    elif form == "voc07":
        _write_voc(root / "VOC2007", drawn, train, val)
    elif form in OWN_FORMS:
        OWN_FORMS[form](root, drawn, dict(train=train, val=val))
    else:
        _write_bdd100k(root, drawn, train, val, old=form == "bdd100k_2018")


def _write_coco(root: Path, drawn: Drawn, train: range, val: range) -> None:
    """With a crowd, an image without objects, a gray one, polygons and fractions of pixels."""
    number = 0
    for split, indices in (("train2017", train), ("val2017", val)):
        images, annotations = [], []
        for index in indices:
            image, digits = drawn[index]
            # Numbers as the release has them: not from 0, not in a row.
            image_id = 139 + 37 * index
            name = f"{image_id:012d}.jpg"
            _save(root / split / name, image, gray=index % 10 == 3)
            images.append(
                dict(id=image_id, file_name=name, width=IMAGE_SIZE, height=IMAGE_SIZE, license=1)
            )
            for digit in [] if index % 10 == 7 else digits:
                number += 1
                annotations.append(_coco_object(number, image_id, digit, crowd=number % 17 == 5))
        content = dict(
            info=dict(description="digits in COCO's layout", year=2017),
            licenses=[dict(id=1, name="see data/README.md", url="")],
            images=images,
            annotations=annotations,
            categories=[dict(id=i, name=n, supercategory="") for i, n in coco.CLASSES.items()],
        )
        _dump(root / "annotations" / f"instances_{split}.json", content)
    images = []
    for index in val:
        images.append(dict(id=581781 - index, file_name=f"{581781 - index:012d}.jpg",
                           width=IMAGE_SIZE, height=IMAGE_SIZE))  # fmt: skip
        _save(root / "test2017" / images[-1]["file_name"], drawn[index][0])
    content["images"] = images
    del content["annotations"]
    _dump(root / "annotations" / "image_info_test-dev2017.json", content)


def _coco_object(number: int, image_id: int, digit: Digit, crowd: bool) -> dict:
    x, y, w, h = digit.box
    box = [x + 0.25, y + 0.25, w - 0.5, h - 0.5]
    outline = [x, y, x + w, y, x + w, y + h, x, y + h]
    if crowd:
        mask = np.zeros((IMAGE_SIZE, IMAGE_SIZE), bool)
        mask[y : y + h, x : x + w] = True
        outline = run_lengths(mask)
    return dict(
        id=900_000_000 + number if crowd else number,
        image_id=image_id,
        category_id=COCO_IDS[digit.label],
        bbox=box,
        area=box[2] * box[3],
        iscrowd=int(crowd),
        segmentation=outline if crowd else [outline],
    )


def _write_voc(root: Path, drawn: Drawn, train: range, val: range) -> None:
    """With difficult objects, parts of persons, fractions, a file without a size and a list of
    one class beside the lists of images."""
    classes = STAND_INS["voc07"]
    names = {index: f"{3 * index + 5:06d}" for index in drawn}
    number = 0
    for index, (image, digits) in drawn.items():
        _save(root / "JPEGImages" / f"{names[index]}.jpg", image)
        objects = []
        for digit in digits:
            number += 1
            objects.append(_voc_object(digit, classes[digit.label], number))
        size = f"<width>{IMAGE_SIZE}</width><height>{IMAGE_SIZE}</height><depth>3</depth>"
        size = "" if index == 11 else f"<size>{size}</size>"
        head = f"<folder>VOC2007</folder><filename>{names[index]}.jpg</filename>{size}"
        text = f"<annotation>{head}<segmented>0</segmented>{''.join(objects)}</annotation>\n"
        _write(root / "Annotations" / f"{names[index]}.xml", text)
    lists = root / "ImageSets" / "Main"
    _write(lists / "trainval.txt", "".join(f"{names[i]}\n" for i in train))
    _write(lists / "test.txt", "".join(f"{names[i]}\n" for i in val))
    _write(lists / "aeroplane_trainval.txt", "".join(f"{names[i]} -1\n" for i in train))


def _voc_object(digit: Digit, name: str, number: int) -> str:
    x, y, w, h = digit.box
    fraction = ".7" if number % 13 == 0 else ""
    box = (
        f"<bndbox><xmin>{x + 1}{fraction}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox>"
    )
    part = f"<part><name>head</name>{box}</part>" if number % 11 == 0 else ""
    return (
        f"<object><name>{escape(name)}</name><pose>Unspecified</pose><truncated>0</truncated>"
        f"<difficult>{int(number % 7 == 0)}</difficult>{box}{part}</object>"
    )


def _write_bdd100k(root: Path, drawn: Drawn, train: range, val: range, old: bool) -> None:
    """With crowds, uncertain classes, lanes and drivable areas, frames without labels and an image
    that no frame speaks of."""
    number = 0
    for split, indices in (("train", train), ("val", val)):
        frames = []
        for index in indices:
            image, digits = drawn[index]
            name = f"{0xB1C66A42 + 7919 * index:08x}-{0x6F7D68CA + index:08x}.jpg"
            _save(root / "images" / "100k" / split / name, image)
            if index == train[-1]:
                continue
            frame = dict(name=name, timestamp=10000, attributes=dict(weather="clear"))
            frames.append(frame)
            if index % 10 == 7:
                continue
            frame["labels"] = []
            for digit in digits:
                number += 1
                frame["labels"].append(_bdd100k_label(digit, number, old))
            if old:
                frame["labels"] += _lanes(number)
        pattern = bdd100k.RELEASES["2018" if old else "det_20"]
        _dump(root / pattern.format(split), frames)


def _bdd100k_label(digit: Digit, number: int, old: bool) -> dict:
    x, y, w, h = digit.box
    category = bdd100k.CLASSES[digit.label]
    attributes = dict(occluded=False, truncated=False)
    if old:
        category = NAMES_2018.get(category, category)
        attributes.update(trafficLightColor="none")
    else:
        category = {5: "other vehicle", 6: "trailer"}.get(number % 19, category)
        attributes.update(crowd=number % 23 == 8)
    return dict(
        id=number if old else str(number),
        category=category,
        attributes=attributes,
        manualShape=True,
        box2d=dict(x1=x + 0.125, y1=y + 0.5, x2=float(x + w), y2=float(y + h)),
    )


def _lanes(number: int) -> list[dict]:
    line = dict(vertices=[[0.0, 100.0], [128.0, 90.5]], types="LL", closed=False)
    return [
        dict(id=900_000 + number, category="lane", attributes={}, poly2d=[line]),
        dict(id=910_000 + number, category="drivable area", attributes={}, poly2d=[line]),
    ]


def _write_yolo(root: Path, drawn: Drawn, splits: dict[str, range]) -> None:
    """With an image without a label file, and polygons in place of some boxes."""
    for split, indices in splits.items():
        for index in indices:
            image, digits = drawn[index]
            _save(root / "images" / split / f"{index:03d}.jpg", image)
            lines = [_yolo_line(digit, polygon=n == 1) for n, digit in enumerate(digits)]
            if index % 10 != 7:
                _write(root / "labels" / split / f"{index:03d}.txt", "\n".join(lines) + "\n")
    names = "".join(f"  {n}: {name}\n" for n, name in enumerate(STAND_INS["yolo"]))
    _write(root / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")


def _yolo_line(digit: Digit, polygon: bool) -> str:
    x, y, w, h = (value / IMAGE_SIZE for value in digit.box)
    values = (x, y, x + w, y, x + w, y + h, x, y + h) if polygon else (x + w / 2, y + h / 2, w, h)
    return " ".join([str(digit.label), *(f"{value:.6f}" for value in values)])


def _write_csv(root: Path, drawn: Drawn, splits: dict[str, range]) -> None:
    """With an image without objects."""
    for split, indices in splits.items():
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for index in indices:
            image, digits = drawn[index]
            _save(root / "images" / f"{index:03d}.jpg", image)
            for digit in [] if index % 10 == 7 else digits:
                x, y, w, h = digit.box
                name = STAND_INS["csv"][digit.label]
                lines.append(f"{index:03d}.jpg,128,128,{name},{x},{y},{x + w},{y + h}")
            if index % 10 == 7:
                lines.append(f"{index:03d}.jpg,128,128,,,,,")
        _write(root / f"{split}.csv", "\n".join(lines) + "\n")


def _write_xml(root: Path, drawn: Drawn, splits: dict[str, range]) -> None:
    """A folder per split, with the XML files beside their images."""
    for split, indices in splits.items():
        for index in indices:
            image, digits = drawn[index]
            _save(root / split / f"{index:03d}.JPEG", image)
            objects = "".join(_voc_object(d, STAND_INS["xml"][d.label], number=1) for d in digits)
            head = f"<filename>{index:03d}.JPEG</filename>"
            _write(root / split / f"{index:03d}.xml", f"<annotation>{head}{objects}</annotation>\n")


def _write_json(root: Path, drawn: Drawn, splits: dict[str, range]) -> None:
    """All images in one file, which is to be divided."""
    images, annotations = [], []
    for index in (index for indices in splits.values() for index in indices):
        image, digits = drawn[index]
        name = f"{index:03d}.jpg"
        _save(root / "images" / name, image)
        images.append(dict(id=index, file_name=name, width=IMAGE_SIZE, height=IMAGE_SIZE))
        for digit in digits:
            number = len(annotations) + 1
            annotations.append(_coco_object(number, index, digit, crowd=False))
    categories = [dict(id=coco_id, name=coco.CLASSES[coco_id]) for coco_id in COCO_IDS]
    content = dict(images=images, annotations=annotations, categories=categories)
    _dump(root / "annotations.json", content)


OWN_FORMS = dict(yolo=_write_yolo, csv=_write_csv, xml=_write_xml, json=_write_json)


def _save(path: Path, image: np.ndarray, gray: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if gray else image
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _dump(path: Path, content: object) -> None:
    _write(path, json.dumps(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=STAND_INS)
    parser.add_argument("root", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    write_miniature(arguments.format, arguments.root)
