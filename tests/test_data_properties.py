"""Generated data in every layout: objects in = out + reported, perfect detections get AP 1.0."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import Counter
from pathlib import Path

import cv2
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from perfect import boxes, perfect_ap
from PIL import Image

from gdetkd.datasets.orientation import turn_point
from gdetkd.datasets.prepare import prepare
from gdetkd.datasets.splits import choose_stages, role

NAMES = ("car", "rider", "traffic light")  # classes of BDD100K, too
WIDTH, HEIGHT = 96, 64

few = settings(
    # A longer search: EXAMPLES=200 .venv/bin/pytest tests/test_data_properties.py
    max_examples=int(os.environ.get("EXAMPLES", 5)), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


@st.composite
def objects(draw):
    """Class and box (x, y, w, h) in whole pixels, inside of an image."""
    x, y = draw(st.integers(0, WIDTH - 8)), draw(st.integers(0, HEIGHT - 8))
    w, h = draw(st.integers(4, WIDTH - x)), draw(st.integers(4, HEIGHT - y))
    return draw(st.sampled_from(NAMES)), (x, y, w, h)


@st.composite
def data_sets(draw):
    """Split -> objects of each image; every split has an object."""
    images = st.lists(st.lists(objects(), max_size=4), min_size=1, max_size=4)
    found = {split: draw(images) for split in ("train", "val")}
    assume(all(any(part) for part in found.values()))
    return found


def write_images(folder, count, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        color = (
            sum(f"{folder.name}{prefix}".encode()) % 256,
            120,
            number,
        )  # no two pictures are equal
        Image.new("RGB", (WIDTH, HEIGHT), color).save(
            folder / f"{prefix}{number}.png", compress_level=0
        )


def category(name):
    return NAMES.index(name) if name in NAMES else 77


def write_coco(root, data, draw):
    """Categories in any order under any ids, ids of annotations from any number."""
    order = draw(st.permutations(NAMES))
    ids = draw(st.lists(st.integers(0, 99), min_size=3, max_size=3, unique=True))
    first = draw(st.integers(0, 3))
    (root / "annotations").mkdir(parents=True)
    for split, images in data.items():
        write_images(root / split, len(images))
        entries = []
        for number, part in enumerate(images):
            for name, box in part:
                number_of = dict(zip(order, ids, strict=True))
                entry = dict(id=first + len(entries), image_id=number, bbox=list(box),
                             category_id=number_of.get(name, 777))  # fmt: skip
                if draw(st.booleans()):
                    entry.update(area=box[2] * box[3], iscrowd=0)
                entries.append(entry)
        content = dict(
            images=[dict(id=n, file_name=f"{n}.png", width=WIDTH, height=HEIGHT)
                    for n in range(len(images))],
            annotations=entries,
            categories=[dict(id=i, name=n) for i, n in zip(ids, order, strict=True)],
        )  # fmt: skip
        encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding=encoding)


def xml_of(part, wrapped):
    text = ""
    for name, (x, y, w, h) in part:
        box = (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h))
        corners = "".join(f"<{key}>{value}</{key}>" for key, value in box)
        text += f"<object><name>{name}</name><bndbox>{corners}</bndbox></object>"
    text = f"<objects>{text}</objects>" if wrapped else text
    return f"<annotation>{text}</annotation>"


def write_voc(root, data, draw):
    for split, images in data.items():
        write_images(root / split, len(images))
        for number, part in enumerate(images):
            suffix = draw(st.sampled_from([".xml", ".XML"]))
            (root / split / f"{number}{suffix}").write_text(xml_of(part, draw(st.booleans())))


def write_yolo(root, data, draw):
    for split, images in data.items():
        write_images(root / "images" / split, len(images))
        (root / "labels" / split).mkdir(parents=True)
        for number, part in enumerate(images):
            lines = []
            for name, (x, y, w, h) in part:
                values = ((x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT)
                lines.append(" ".join(map(str, [category(name), *values])))
            if lines or draw(st.booleans()):
                (root / "labels" / split / f"{number}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(NAMES)}\n")


def write_csv(root, data, draw):
    corners = draw(st.booleans())
    for split, images in data.items():
        write_images(root / split, len(images))
        header = "file,label,x1,y1,x2,y2" if corners else "image,class,x,y,width,height"
        lines = [header]
        for number, part in enumerate(images):
            lines += [f"{number}.png,,,,,"] if not part else []
            for name, (x, y, w, h) in part:
                far = (x + w, y + h) if corners else (w, h)
                lines.append(",".join(map(str, (f"{number}.png", name, x, y, *far))))
        mark = draw(st.sampled_from(",;\t"))
        (root / f"{split}.csv").write_text("\n".join(lines).replace(",", mark) + "\n")


def write_json(root, data, draw):
    """One file for all images, to be divided."""
    entries, images = [], []
    for split, parts in data.items():
        write_images(root / "images", len(parts), split)
        for number, part in enumerate(parts):
            images.append(dict(id=len(images) + 5, file_name=f"{split}{number}.png"))
            for name, box in part:
                entries.append(dict(id=len(entries), image_id=images[-1]["id"], bbox=list(box),
                                    category_id=category(name)))  # fmt: skip
    categories = [dict(id=n, name=name) for n, name in enumerate(NAMES)]
    content = dict(images=images, annotations=entries, categories=categories)
    (root / "all.json").write_text(json.dumps(content))


def write_devkit(root, data, draw):
    """VOC with Annotations/, JPEGImages/ and a list of images per split."""
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, images in data.items():
        write_images(root / "JPEGImages", len(images), split)
        names = [f"{split}{number}" for number in range(len(images))]
        for name, part in zip(names, images, strict=True):
            (root / "Annotations" / f"{name}.xml").write_text(xml_of(part, False))
        title = draw(st.sampled_from([split, split.capitalize()]))
        (root / "ImageSets" / "Main" / f"{title}.txt").write_text("\n".join(names))


def write_bdd100k(root, data, draw):
    """Either release, boxes with their last pixel."""
    file = draw(st.sampled_from(["det_20/det_{}.json", "bdd100k_labels_images_{}.json"]))
    (root / "labels" / "det_20").mkdir(parents=True)
    for split, images in data.items():
        write_images(root / "images" / "100k" / split, len(images))
        frames = []
        for number, part in enumerate(images):
            labels = [
                dict(id=str(n), category=name, box2d=dict(x1=x, y1=y, x2=x + w - 1, y2=y + h - 1))
                for n, (name, (x, y, w, h)) in enumerate(part)
            ]
            frames.append(dict(name=f"{number}.png", labels=labels or None))
        (root / "labels" / file.format(split)).write_text(json.dumps(frames))


WRITERS = dict(
    coco=write_coco, json=write_json, xml=write_voc, voc=write_devkit, yolo=write_yolo,
    csv=write_csv, bdd100k=write_bdd100k,
)  # fmt: skip


def convert(layout, root, out, on_error="strict"):
    """As `gdetkd data own` or `gdetkd data bdd100k` does it."""
    own = dict(layout="own", classes=NAMES)
    choices = dict(bdd100k=dict(layout="bdd100k"), json=own | dict(train="all"))
    done = prepare(root=root, out=out, on_error=on_error, **choices.get(layout, own))
    done.config = out / "dataset.py"
    assert done.report.balanced, done.report.summary()
    return done


def expected(layout, data):
    """Objects of all images, with corners as MMDetection has them; VOC's lack the last pixel."""
    last = 1 if layout in ("voc", "xml") else 0
    return Counter(
        (name, (x, y, x + w - last, y + h - last))
        for images in data.values() for part in images for name, (x, y, w, h) in part
    )  # fmt: skip


def found(done):
    """What MMDetection reads of all splits, which perfect detections measure as 1."""
    objects = Counter()
    for split in done.summary["splits"]:
        for part in boxes(done, split).values():
            objects.update((name, tuple(box)) for name, box in part)
        assert perfect_ap(done, split) in (None, pytest.approx(1.0))
    return objects


@pytest.mark.parametrize("layout", WRITERS)
@few
@given(data=data_sets(), source=st.data())
def test_every_object_comes_out_under_its_name(layout, data, source):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        WRITERS[layout](root, data, source.draw)
        done = convert(layout, root, Path(folder) / "out")
        assert not done.report.bad
        assert found(done) == expected(layout, data)


NAN = math.nan
# Kind -> what it makes of an object, or of the file of an image.
OBJECTS = {
    "box outside": lambda name, x, y, w, h: (name, (WIDTH - 3, y, 20, h)),
    "zero area": lambda name, x, y, w, h: (name, (x, y, 0, h)),
    "not finite": lambda name, x, y, w, h: (name, (NAN, y, w, h)),
    "unknown class": lambda name, x, y, w, h: ("unicorn", (x, y, w, h)),
}
IMAGES = {
    "no image": lambda file: file.unlink(),
    "broken image": lambda file: file.write_bytes(file.read_bytes()[:-200]),
    "16-bit image": lambda file: Image.new("I;16", (WIDTH, HEIGHT)).save(file),
    "image format": lambda file: Image.new("P", (WIDTH, HEIGHT)).save(file, format="GIF"),
}


@pytest.mark.parametrize("layout", WRITERS)
@few
@given(data=data_sets(), source=st.data(), kind=st.sampled_from([*OBJECTS, *IMAGES]))
def test_what_is_wrong_goes_out_alone_and_is_named(layout, data, source, kind):
    """The strict mode writes nothing; the other one all the rest, in its place."""
    number = source.draw(st.sampled_from([n for n, part in enumerate(data["train"]) if part]))
    part = data["train"][number]
    wanted = {split: list(images) for split, images in data.items()}
    if kind in OBJECTS:
        wanted["train"][number] = part[:-1]
        name, box = part[-1]
        data["train"][number] = [*part[:-1], OBJECTS[kind](name, *box)]
    else:
        wanted["train"][number] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        WRITERS[layout](root, data, source.draw)
        if kind in IMAGES:
            names = (f"train/{number}.png", f"train{number}.png")
            (file,) = (p for p in root.rglob("*.png") if str(p).endswith(names))
            IMAGES[kind](file)
        lost = 1 if kind in OBJECTS else len(part)
        for on_error in ("strict", "skip"):
            done = convert(layout, root, Path(folder) / on_error, on_error)
            kinds = {p.kind for p in done.report.bad}
            assert kind in kinds and kinds <= {kind, "empty split", "nothing to train on"}
            assert sum(p.objects for p in done.report.bad) == lost
            if on_error == "strict" or kinds != {kind}:
                assert done.summary is None
            else:
                assert found(done) == expected(layout, wanted)


JUNK = st.sampled_from(
    [None, "", "x", -1, 0, 10**20, 1e308, float("nan"), True, [], {}, [1, 2], {"id": 1}]
)


@few
@given(data=data_sets(), source=st.data())
def test_objects_in_are_out_or_reported_whatever_is_wrong(data, source):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_coco(root, data, source.draw)
        path = root / "annotations" / "train.json"
        content = json.loads(path.read_bytes())
        table = source.draw(st.sampled_from(["images", "annotations", "categories"]))
        entry = source.draw(st.sampled_from(content[table]))
        entry[source.draw(st.sampled_from(sorted(entry)))] = source.draw(JUNK)
        if source.draw(st.booleans()):
            content[table].append(source.draw(st.sampled_from(content[table])))
        path.write_text(json.dumps(content))
        for on_error in ("strict", "skip"):
            done = prepare("coco", root, Path(folder) / on_error, on_error, NAMES)
            assert done.report.balanced, done.report.problems
            total = sum(len(part) for images in data.values() for part in images)
            assert done.report.objects_in in (total, total + 1)
            if on_error == "strict" and done.report.bad:
                assert done.summary is None


SIZES = (1, 2, 3, 4, 5, 6, 7, 8)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(one=objects(), turn=st.sampled_from(SIZES), stored=st.booleans())
def test_a_box_of_a_turned_image_is_where_its_pixels_are(one, turn, stored):
    name, (x, y, w, h) = one
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        (root / "images").mkdir(parents=True)
        image = Image.new("RGB", (WIDTH, HEIGHT))
        image.paste((255, 255, 255), (x, y, x + w, y + h))
        exif = Image.Exif()
        exif[274] = turn
        image.save(root / "images" / "a.png", exif=exif)
        corners = [turn_point(*p, WIDTH, HEIGHT, turn) for p in ((x, y), (x + w, y + h))]
        (x1, x2), (y1, y2) = (sorted(values) for values in zip(*corners, strict=True))
        box = [x, y, w, h] if stored else [x1, y1, x2 - x1, y2 - y1]
        content = dict(
            images=[dict(id=1, file_name="a.png")],
            annotations=[dict(id=1, image_id=1, category_id=1, bbox=box)],
            categories=[dict(id=1, name=name)],
        )
        (root / "train.json").write_text(json.dumps(content))
        done = prepare("coco", root, Path(folder) / "out", classes=[name],
                       turned="stored" if stored else "shown")  # fmt: skip
        done.config = Path(folder) / "out" / "dataset.py"
        pixels = cv2.imread(str(root / "images" / "a.png"))
        ys, xs = pixels[..., 0].nonzero()
        seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        # A box that fits one reading alone is taken for that one, whatever was said.
        ((_, found),) = boxes(done, "train")["a.png"] if done.summary else ((name, None),)
        fits_both = max(box[0] + box[2], box[1] + box[3]) <= HEIGHT
        if turn <= 4 or fits_both:
            assert found == seen


WORDS = st.sampled_from(["train", "Train", "TRAINING", "val", "Valid", "validation", "dev", "test"])


@given(words=st.lists(WORDS, min_size=1, max_size=4, unique=True))
def test_no_split_is_taken_by_the_alphabet(words):
    roles = [role(word) for word in words]
    try:
        stages = choose_stages(words)
    except ValueError as error:
        assert "--train" in str(error) or "--val" in str(error)
    else:
        assert role(stages["train"]) == "train"
        assert role(stages["val"]) == ("val" if "val" in roles else "test") or len(words) == 1
