"""Own data in every layout: prepared, trained two steps by the written dataset config, tested."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import faster_rcnn
from miniature import STAND_INS, write_miniature
from mmengine.config import Config
from perfect import boxes, perfect_ap
from PIL import Image

from gdetkd.cli import cli
from gdetkd.datasets import images
from gdetkd.datasets.digits import draw_digits, load_glyphs
from gdetkd.datasets.prepare import prepare
from gdetkd.datasets.report import InvalidAnnotation
from gdetkd.datasets.samples import LAYOUTS

FORMS = ("coco", "voc07", "bdd100k", "bdd100k_2018", "yolo", "csv", "xml", "json")
README = (Path(__file__).parents[1] / "data" / "README.md").read_text()
# The dataset config is the user's base; the rest is a detector and a schedule of two steps.
CONFIG = """
_base_ = ["{data}"]
custom_imports = dict(imports=["gdetkd.detectors.mmdet"])
default_scope = "mmdet"
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2))
model = {model}
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01))
loading = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, sampler=dict(type="InfiniteSampler"), **loading)
val_dataloader = dict(batch_size=5, **loading)
test_dataloader = dict(batch_size=5, **loading)
"""


def gdetkd(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def printed(form):
    """The two commands in data/README.md that write a form and prepare it, as words."""
    block = README.partition("## Thirty images")[2].split("```")[1]
    block = block.replace("$NAMES", ",".join(STAND_INS["csv"]))
    lines = [shlex.split(line) for line in block.splitlines() if line]
    assert lines[0] == ["NAMES=" + ",".join(STAND_INS["csv"])]
    return [words for words in lines if f"data/miniature/{form}" in words]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_thirty_images_are_prepared_trained_on_and_tested(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write, prepares = printed(form)
    assert write[:3] == ["python", "tests/miniature.py", form]
    write_miniature(form, Path(write[3]))
    said = gdetkd(*prepares[1:])
    (out,) = Path("data/prepared").resolve().iterdir()
    assert f"--data data/prepared/{out.name}" in said and (out / "dataset.py").is_file()
    classes = len(json.loads((out / "dataset.json").read_text())["classes"])
    model = faster_rcnn()
    model["roi_head"]["bbox_head"]["num_classes"] = classes
    config = tmp_path / "config.py"
    model = Config(model)._cfg_dict.to_dict()
    config.write_text(CONFIG.format(data=out / "dataset.py", model=model))
    small = []
    for stage, step in (("train", 2), ("val", 1), ("test", 1)):
        small += ["--cfg-options", f"{stage}_dataloader.dataset.pipeline.{step}.scale=(128,128)"]
    gdetkd("train", config, "--work-dir", tmp_path / "run", *small)
    shown = gdetkd("test", config, tmp_path / "run" / "iter_2.pth", "--work-dir",
                   tmp_path / "test", *small)  # fmt: skip
    assert ("voc07_11points/AP50" if form == "voc07" else "coco/bbox_mAP_50") in shown


def drawn(form, indices):
    """The names of the objects in the images, in their order."""
    glyphs = load_glyphs()
    return sorted(
        STAND_INS[form][d.label] for i in indices for d in draw_digits(0, "train", i, glyphs)
    )


PEAK = """
import sys
from gdetkd.cli import main
try:
    main()
finally:
    print([line for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


@pytest.mark.slow
def test_large_images_need_no_more_memory_than_one_of_them(tmp_path):
    """Three PNGs of 13,000 x 13,000, of which each has half a gigabyte when it is decoded."""
    write_miniature("yolo", tmp_path / "data")
    pictures = sorted((tmp_path / "data").rglob("*.jpg"))[:3]
    Image.new("RGB", (13_000, 13_000)).save(tmp_path / "large.png", compress_level=1)
    for picture in pictures:
        shutil.copy(tmp_path / "large.png", picture)
    command = [sys.executable, "-c", PEAK, "data", "yolo", "--root", str(tmp_path / "data")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    splits = json.loads((tmp_path / "out" / "dataset.json").read_text())["splits"]
    assert sum(split["count"] for split in splits.values()) == 30
    print(done.stdout)
    (kilobytes,) = re.findall(r"VmHWM:\D*(\d+) kB", done.stdout)
    assert int(kilobytes) < 2**20


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_a_large_png_is_read_to_its_end_without_decoding_it(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(images, "LARGE", 100)
    draw = np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8)
    picture = Image.fromarray(draw).convert(mode)
    picture.save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    found = images.examine(str(tmp_path / "a.png"))
    assert (found.width, found.height) == (53, 37)
    for place in (len(whole) // 2, len(whole) - 20, len(whole) - 30):
        for damaged in (whole[:place], whole[:place] + b"\0\1" + whole[place + 2 :]):
            (tmp_path / "a.png").write_bytes(damaged)
            with pytest.raises(InvalidAnnotation, match="broken image"):
                images.examine(str(tmp_path / "a.png"))


@pytest.mark.parametrize("form", ["yolo", "csv", "xml", "json"])
@pytest.mark.parametrize("layout", ["itself", "own"])
def test_own_data_come_in_whole_and_under_their_names(form, layout, tmp_path):
    write_miniature(form, tmp_path / "data", range(4), range(20, 22))
    names = dict(itself=dict(xml="voc07", json="coco").get(form, form), own="own")[layout]
    choices = dict(val_fraction=0.34) if form == "json" else {}
    done = prepare(names, tmp_path / "data", tmp_path / "out", classes=STAND_INS[form], **choices)
    done.config = tmp_path / "out" / "dataset.py"
    assert not done.report.bad and done.report.balanced
    found = [name for split in ("train", "val") for image in boxes(done, split).values()
             for name, _ in image]  # fmt: skip
    assert sorted(found) == drawn(form, [*range(4), 20, 21])
    assert {perfect_ap(done, split) for split in ("train", "val")} == {1.0}


def test_a_part_is_taken_for_validation_by_group_and_always_the_same(tmp_path):
    write_miniature("json", tmp_path / "data", range(8), range(0))
    parts = []
    for group in (None, r"(\d)\.jpg", r"(\d)\.jpg"):
        done = prepare("own", tmp_path / "data", tmp_path / "out", val_fraction=0.25, group=group)
        content = {
            split: json.loads(Path(entry["annotations"]).read_text())
            for split, entry in done.summary["splits"].items()
        }
        parts.append({s: [i["file_name"] for i in c["images"]] for s, c in content.items()})
        assert {len(parts[-1]["train"]), len(parts[-1]["val"])} == {6, 2}
    assert parts[1] == parts[2]
    with pytest.raises(ValueError, match="at least two groups, got 1"):
        prepare("own", tmp_path / "data", tmp_path / "out", val_fraction=0.25, group="images")
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        prepare("own", tmp_path / "data", tmp_path / "out", val_fraction=2)


def test_classes_are_renamed_and_dropped(tmp_path):
    write_miniature("json", tmp_path / "data", range(12), range(0))
    done = prepare("own", tmp_path / "data", tmp_path / "out", rename={"bicycle": "person"},
                   drop=["car"], val_fraction=0.2)  # fmt: skip
    assert "bicycle" not in done.summary["classes"] and "car" not in done.summary["classes"]
    dropped = sum(p.objects for p in done.report.problems if p.kind == "dropped class")
    names = drawn("json", range(12))
    assert dropped == names.count("car") > 0 and done.report.balanced
    persons = sum(entry["objects"]["person"] for entry in done.summary["splits"].values())
    assert persons == names.count("person") + names.count("bicycle")


@pytest.mark.parametrize(
    "files, said",
    [
        ({"a.jpg": "", "notes.docx": ""}, "1 files .docx in ./"),
        ({"annotations/train.json": "{}", "data.yaml": "names: [a]"}, "several layouts are there"),
        ({}, "an empty folder"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, files, said):
    (tmp_path / "data").mkdir()
    for name, text in files.items():
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(text)
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        prepare("own", tmp_path / "data", tmp_path / "out", classes=["a"])


YOLO = {
    "labels in pixels": ("0 60 60 20 20", "no fractions", "are these pixels?"),
    "an unknown number": ("7 .5 .5 .1 .1", "unknown class", "from 0 to 1"),
    "a prediction": ("0 .5 .5 .1 .1 .99", "no box", "got 6 fields"),
    "words": ("cat .5 .5 .1 .1", "no number", "'cat'"),
}


@pytest.mark.parametrize("case", YOLO)
def test_a_wrong_line_of_yolo_is_reported(tmp_path, case):
    line, kind, said = YOLO[case]
    root = tmp_path / "data"
    write_miniature("yolo", root, range(2), range(20, 21))
    (root / "data.yaml").write_text("train: ../images/train\nval: images/val\nnames: [cat, dog]\n")
    for path in root.glob("labels/*/*.txt"):
        path.write_text("1 0.5 0.5 0.25 0.5\n")
    (root / "labels" / "train" / "000.txt").write_text(f"1 0.5 0.5 0.25 0.5\n{line}\n")
    done = prepare("yolo", root, tmp_path / "out", "skip")
    (problem,) = done.report.bad
    assert problem.kind == kind and said in str(problem) and problem.item == "line 2"
    assert done.summary["splits"]["train"]["objects"] == dict(cat=0, dog=2)


def test_labels_without_an_image_are_reported(tmp_path):
    root = tmp_path / "data"
    write_miniature("yolo", root, range(2), range(20, 21))
    (root / "images" / "train" / "001.jpg").unlink()
    done = prepare("yolo", root, tmp_path / "out", "skip")
    (problem,) = done.report.bad
    assert problem.file == "labels/train/001.txt" and problem.objects > 0 and done.report.balanced


LAYOUT = '''
import os
from gdetkd.datasets.samples import Candidate, Layout, RawDataset, Sample, register_layout

def read(request):
    """One file `boxes.txt`: image, class and x y w h in a line."""
    found = RawDataset(dict(train=[], val=[]))
    for number, line in enumerate(open(request.root / "boxes.txt"), start=1):
        request.report.images_in += 1
        request.report.objects_in += 1
        image, name, *box = line.split()
        split = "val" if number % 3 == 0 else "train"
        one = Candidate(f"line {number}", tuple(map(float, box)), name)
        found.splits[split].append(Sample(number, image, "boxes.txt", image, None, [one]))
    return found

def finds(root):
    return "boxes.txt" if os.path.isfile(root / "boxes.txt") else None

register_layout(Layout("lines", "Convert lines of boxes.", "{root}/boxes.txt", read=read,
                       flags=dict(mirrored="Boxes are mirrored."), finds=finds))
'''


def test_the_example_of_a_layout_runs(tmp_path, monkeypatch):
    code = README.partition("```python\n# my_lines.py")[2].partition("```")[0]
    (tmp_path / "my_lines.py").write_text("#" + code)
    write_miniature("json", tmp_path / "raw", range(4), range(0))
    root = tmp_path / "raw" / "images"
    lines = [f"{path.name} cat 10 20 30 40\n" for path in sorted(root.iterdir())]
    (root / "boxes.txt").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        gdetkd("data", "--import", "my_lines", "lines", "--root", root, "--out", "out",
               "--classes", "cat", "--val-fraction", "0.25")  # fmt: skip
    finally:
        LAYOUTS.pop("lines", None)
        sys.modules.pop("my_lines", None)
    summary = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert [entry["objects"] for entry in summary["splits"].values()] == [dict(cat=3), dict(cat=1)]


def test_a_layout_is_added_by_one_file_outside_of_the_package(tmp_path, monkeypatch):
    (tmp_path / "own_lines.py").write_text(LAYOUT)
    write_miniature("json", tmp_path / "raw", range(6), range(0))
    root = tmp_path / "data"
    (tmp_path / "raw" / "images").rename(root)
    lines = [f"{path.name} cat 10 20 30 40\n" for path in sorted(root.iterdir())]
    (root / "boxes.txt").write_text("".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        for command in ("lines", "own"):
            gdetkd("data", "--import", "own_lines", command, "--root", root, "--out", command,
                   "--classes", "cat")  # fmt: skip
            summary = json.loads((tmp_path / command / "dataset.json").read_text())
            counts = [entry["objects"] for entry in summary["splits"].values()]
            assert counts == [dict(cat=4), dict(cat=2)]
            config = Config.fromfile(tmp_path / command / "dataset.py")
            assert config.metainfo.classes == ("cat",)
        said = gdetkd("data", "--import", "own_lines", "lines", "--help")
        assert "--mirrored" in said and "Convert lines of boxes." in said
    finally:
        LAYOUTS.pop("lines", None)
