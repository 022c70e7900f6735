"""Feed damaged annotation files to the converters: no traceback, no object lost without a line.

`python tests/fuzz_annotations.py --files 10000 --out results/data/fuzz.json` is what the record
holds: COCO, VOC XML, both releases of BDD100K, and own data as YOLO's text files, CSV tables, XML
files beside the images and a JSON file without splits, by turns. Every file is a sound one (the
images and annotations of `miniature.py`) damaged at random in its bytes or its
structure; every other one is converted strictly, the rest skipping what is bad.
"""

from __future__ import annotations

import argparse
import copy
import csv
import io
import json
import math
import platform
import random
import shutil
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from miniature import OWN_FORMS, STAND_INS, write_miniature

from gdetkd.datasets.prepare import Prepared, prepare

TRAIN, VAL = range(4, 12), range(20, 22)
FILES = {
    "coco": "annotations/instances_train2017.json",
    "voc07": "VOC2007/Annotations/*.xml",
    "bdd100k": "labels/det_20/det_train.json",
    "bdd100k_2018": "labels/bdd100k_labels_images_train.json",
    "yolo": "labels/train/*.txt",
    "csv": "train.csv",
    "xml": "train/*.xml",
    "json": "annotations.json",
}
KNOWN = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")
XML, TEXT = ("voc07", "xml"), ("yolo", "csv")
# The layout that reads each form, where its name is another.
LAYOUTS = dict(bdd100k_2018="bdd100k", xml="voc07", json="coco")
JUNK = (
    None, True, False, 0, 1, -1, 7, 10**18, 10**30, 10**400, 0.5, -0.0, 1e308, -1e308, math.nan,
    math.inf, -math.inf, "", " ", "x", "1", "nan", "car", "person", "\ud800", "\0", "a\nb", "é" * 5,
    "../../../etc/passwd", "/etc/passwd", "x" * 5000, [], {}, [[]], [0] * 4, [math.nan] * 4,
    [10, 10, 0, 0], [-50, -50, 20, 20], [0, 0, 1e6, 1e6], ["1", "2", "3", "4"], {"id": 1},
)  # fmt: skip
XML_JUNK = ("", " ", "nan", "inf", "-1", "0", "1e400", "9" * 400, "12.7", "0x10", "zebra", "1" * 30,
            "../../x", "&amp;", "\u2028", "١٢")  # fmt: skip


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """Cut, flip, insert, repeat or re-encode."""
    at, to = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice([
        lambda: data[:at],
        lambda: data[at:],
        lambda: data[:at] + data[to:],
        lambda: data[:to] + data[at:],
        lambda: data[:at] + draw.randbytes(draw.randrange(1, 9)) + data[at:],
        lambda: bytes(b ^ (1 << draw.randrange(8)) if draw.random() < 0.002 else b for b in data),
        lambda: data.replace(b"1", draw.choice([b"-", b"NaN", b"1e999", b"", b'"'])),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode().encode(draw.choice(["utf-16", "utf-32", "utf-7"])),
        lambda: draw.randbytes(draw.randrange(200)),
        lambda: data[:at] + b"[" * 100_000 + data[at:],
        lambda: b"",
    ])()  # fmt: skip


def damage_json(data: bytes, draw: random.Random) -> bytes:
    """Change one to three places of the structure."""
    content = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        holders = [node for node in nodes(content) if node]
        if not holders:
            break
        holder = draw.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw.choice(keys)
        what = draw.randrange(6)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.insert(draw.randrange(len(holder) + 1), json.loads(json.dumps(holder[key])))
        elif what == 2 and isinstance(holder, dict):
            holder[draw.choice(["", "ID", key + " ", "bbox", "box2d", "labels"])] = holder.pop(key)
        elif what == 3 and isinstance(holder[key], int | float):
            holder[key] *= draw.choice([-1, 0, 1.5, 1e6, 1e300])
        elif what == 4:
            other = draw.choice(holders)
            others = list(other) if isinstance(other, dict) else range(len(other))
            holder[key] = json.loads(json.dumps(other[draw.choice(others)]))
        else:
            holder[key] = draw.choice(JUNK)
    return json.dumps(content).encode()


def nodes(content: object) -> Iterator[list | dict]:
    """Every list and object in it, itself included."""
    if isinstance(content, list | dict):
        yield content
        for value in content.values() if isinstance(content, dict) else content:
            yield from nodes(value)


def damage_xml(data: bytes, draw: random.Random) -> bytes:
    """Change one to three elements, or the prologue."""
    tree = ElementTree.fromstring(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        parents = [element for element in tree.iter() if len(element)]
        if not parents:
            break
        parent = draw.choice(parents)
        place = draw.randrange(len(parent))
        element = parent[place]
        what = draw.randrange(6)
        if what == 0:
            parent.remove(element)
        elif what == 1:
            parent.insert(draw.randrange(len(parent) + 1), element)
        elif what == 2:
            element.tag = draw.choice(
                ["object", "bndbox", "xmin", "name", "size", "annotation", "a"]
            )
        elif what == 3:
            draw.choice(list(tree.iter())).append(copy.deepcopy(element))
        else:
            leaves = [leaf for leaf in tree.iter() if not len(leaf)]
            draw.choice(leaves).text = draw.choice(XML_JUNK)
    text = ElementTree.tostring(tree, encoding="unicode")
    prologue = draw.choice([
        "", "", "", '<?xml version="1.0" encoding="no-such"?>',
        '<?xml version="1.0" encoding="utf-7"?>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "/etc/passwd">]>', "<!-- -->", "text", "<b/>",
    ])  # fmt: skip
    return (prologue + text).encode()


def damage_text(data: bytes, draw: random.Random) -> bytes:
    """Change, drop or repeat lines and their fields."""
    lines = data.decode().split("\n")
    for _ in range(draw.choice([1, 1, 2, 3])):
        place = draw.randrange(len(lines))
        mark = "," if "," in lines[place] else " "
        fields = lines[place].split(mark)
        at, what = draw.randrange(len(fields)), draw.randrange(6)
        if what == 0:
            del fields[at]
        elif what == 1:
            fields.insert(at, fields[at])
        elif what == 2:
            lines.insert(place, lines[place])
        else:
            fields[at] = draw.choice(XML_JUNK)
        lines[place] = mark.join(fields)
    return "\n".join(lines).encode()


def xml_objects(tree: ElementTree.Element, inside: bool = False) -> int:
    """Objects, a second box of one, and boxes outside of any: all have to be accounted for."""
    count = 0
    for element in tree:
        tag = str(element.tag).lower()
        if tag == "object":
            count += max(1, own_boxes(element))
        elif tag == "bndbox":
            count += not inside
        count += xml_objects(element, inside or tag in ("object", "bndbox"))
    return count


def own_boxes(tree: ElementTree.Element) -> int:
    """Boxes of an object, also wrapped ones; not those of its parts and of objects in it."""
    count = 0
    for element in tree:
        tag = str(element.tag).lower()
        if tag not in ("object", "part"):
            count += 1 if tag == "bndbox" else own_boxes(element)
    return count


def once(pairs: list) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is there twice: which is meant cannot be known")
    return dict(pairs)


def text_objects(form: str, data: bytes) -> int | None:
    """Lines that are not blank, or rows of a table that say more than an image."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    text = data.decode("utf-16" if wide else "utf-8-sig")
    if form == "yolo":
        return sum(bool(line.strip()) for line in text.splitlines())
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if any(header.count(name) > 1 for name in header if name in KNOWN):
        return None  # which of two columns is meant cannot be known
    said = [header.index(name) for name in ("class", "xmin", "ymin", "xmax", "ymax")]
    header.index("filename")
    return sum(any(row[at].strip() for at in said if at < len(row)) for row in rows[1:])


def objects_in(form: str, data: bytes) -> int | None:
    """How many objects a file has, counted without the converters; None if it is not readable."""
    try:
        if form in XML:
            return xml_objects(ElementTree.fromstring(data))
        if form in TEXT:
            return text_objects(form, data)
        content = json.loads(data, object_pairs_hook=once)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError, csv.Error):
        return None
    if form in ("coco", "json"):
        keys = ("images", "annotations", "categories")
        if not isinstance(content, dict) or any(type(content.get(k)) is not list for k in keys):
            return None
        return len(content["annotations"])
    if isinstance(content, dict):
        content = content.get("frames")
    if not isinstance(content, list):
        return None
    count = 0
    for frame in content:
        labels = frame.get("labels") if isinstance(frame, dict) else None
        for label in labels if isinstance(labels, list) else []:
            category = label.get("category") if isinstance(label, dict) else None
            count += category not in ("lane", "drivable area")
    return count


def complaints(form: str, done: Prepared, out: Path, strict: bool, expected: int | None,
               elsewhere: int, file: str) -> list[str]:  # fmt: skip
    """What is wrong with a conversion; nothing, if all is well."""
    report, found = done.report, []
    if not report.balanced:
        found.append(f"not balanced: {report.summary()}")
    if report.objects_in != (expected or 0) + elsewhere:
        found.append(f"{report.objects_in} objects read, {(expected or 0) + elsewhere} are there")
    if expected is None and not any(problem.file == file for problem in report.bad):
        found.append("not readable, and no line says so")
    if any(not str(problem).isprintable() for problem in report.problems):
        found.append("a problem is not one printable line")
    lines = (out / "report.txt").read_text().splitlines()
    if len(lines) != len(report.problems) + 1:
        found.append("the report has other lines than problems")
    if strict and report.bad and (done.summary or (out / "annotations").exists()):
        found.append("written in spite of the strict mode")
    if done.summary:
        written = [json.loads(path.read_text()) for path in (out / "annotations").glob("*.json")]
        entries = [entry for content in written for entry in content["annotations"]]
        in_place = form == "coco" and not written
        if not in_place and len(entries) != report.objects_out:
            found.append(f"{len(entries)} objects written, {report.objects_out} reported as out")
        for content in written:
            found += unsound(content)
    return found


def unsound(content: dict) -> list[str]:
    """What of a written file no reader could use."""
    found = []
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    ids = [entry["id"] for entry in content["annotations"]]
    if len(set(ids)) != len(ids) or len(images) != len(content["images"]):
        found.append("ids are not unique")
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        image = images[entry["image_id"]]
        right, bottom = x + w - image["width"], y + h - image["height"]
        if not (w > 0 and h > 0 and max(-x, -y, right, bottom) <= 1 and entry["area"] > 0):
            found.append(f"box {entry['bbox']}")
        if entry["category_id"] not in categories:
            found.append(f"category {entry['category_id']}")
    return found


def fuzz(files: int, seed: int, folder: Path) -> dict:
    """Convert that many damaged files and say what happened."""
    sound = {form: {} for form in FILES}
    for form in FILES:
        write_miniature(form, folder / form, TRAIN, VAL)
        for path in sorted((folder / form).glob(FILES[form])):
            sound[form][path] = path.read_bytes()
    totals = {form: sum(objects_in(form, data) for data in sound[form].values()) for form in FILES}
    for form in FILES:
        if "train" in FILES[form]:  # the validation split, which stays as it is
            for val in (folder / form).glob(FILES[form].replace("train", "val")):
                totals[form] += objects_in(form, val.read_bytes())
    record = dict(seed=seed, files=Counter(), problems=Counter(), clean=0, objects=Counter(),
                  failures=[])  # fmt: skip
    for number in range(files):
        form = list(FILES)[number % len(FILES)]
        draw = random.Random(f"{seed}/{number}")
        path = draw.choice(list(sound[form]))
        damage = (
            damage_xml if form in XML else damage_text if form in TEXT else damage_json
        )  # fmt: skip
        data = draw.choice([damage_bytes, damage, damage, damage])(sound[form][path], draw)
        path.write_bytes(data)
        strict, out = number // len(FILES) % 2 == 0, folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            choices = dict(val_fraction=0.3) if form == "json" else {}
            if form in OWN_FORMS:
                choices["classes"] = STAND_INS[form]
            name = LAYOUTS.get(form, form)
            done = prepare(name, folder / form, out, "strict" if strict else "skip", **choices)
            elsewhere = totals[form] - objects_in(form, sound[form][path])
            file = str(path.relative_to(folder / form))
            found = complaints(form, done, out, strict, objects_in(form, data), elsewhere, file)
            record["problems"].update(problem.kind for problem in done.report.problems)
            record["clean"] += not done.report.bad
            record["objects"].update(
                {"in": done.report.objects_in, "out": done.report.objects_out,
                 "reported": done.report.objects_reported}
            )  # fmt: skip
        except Exception:  # whatever it is: finding it is what this is for
            found = [traceback.format_exc()]
        record["files"][form] += 1
        record["failures"] += [f"{form}, file {number}: {text}" for text in found]
        path.write_bytes(sound[form][path])
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="record the result in this JSON file")
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        record = fuzz(arguments.files, arguments.seed, Path(folder))
    record["seconds"] = round(time.perf_counter() - start)
    record["python"] = platform.python_version()
    record["problems"] = dict(record["problems"].most_common())
    text = json.dumps(record, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    raise SystemExit(1 if record["failures"] else 0)


if __name__ == "__main__":
    main()
