"""Data sets that are not in COCO's format are checked by what they load, or said not to be."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset
from PIL import Image

from gdetkd.datasets.config_check import check_data

NAMES = ("cat", "dog")


@DATASETS.register_module()
class Lines(BaseDetDataset):
    """A data set of one's own: entries are in the config, pictures have no stated size."""

    def __init__(self, *args, entries=(), **kwargs):
        self.entries = entries
        super().__init__(*args, **kwargs)

    def load_data_list(self):
        return [dict(img_path=path, instances=found) for path, found in self.entries]


@DATASETS.register_module()
class Slow(Lines):
    def full_init(self):
        raise AssertionError("not called by the check")


@DATASETS.register_module()
class Strict(BaseDataset):
    def __init__(self, metainfo, pipeline):
        super().__init__(metainfo=metainfo, pipeline=pipeline)


@DATASETS.register_module()
class Foreign:
    def __init__(self, **kwargs):
        raise AssertionError("not built by the check")


def xml(name, corners, more=""):
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners, strict=True))
    size = "<size><width>96</width><height>64</height></size>"
    thing = f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"
    return f"<annotation>{size}{thing}</annotation>"


@pytest.fixture
def root(tmp_path):
    """Four pictures with an XML file each, as VOC2007 has them."""
    root = tmp_path / "VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((64, 96, 3), number, np.uint8)).save(
            root / "JPEGImages" / f"{number}.jpg"
        )
        text = xml(NAMES[number % 2], (11, 13, 30, 28))
        (root / "Annotations" / f"{number}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("0\n1\n2\n3\n")
    return root


def voc(root, kind="XMLDataset", names=NAMES, **more):
    return dict(
        type=kind, data_root=str(root.parent), ann_file="VOC2007/ImageSets/Main/train.txt",
        data_prefix=dict(sub_data_root="VOC2007/"), metainfo=dict(classes=names),
        filter_cfg=dict(filter_empty_gt=True, min_size=32), pipeline=[], **more,
    )  # fmt: skip


def lines(root, *instances, kind="Lines", **more):
    entries = [(str(root / "JPEGImages" / "0.jpg"), list(instances))]
    return dict(type=kind, entries=entries, metainfo=dict(classes=NAMES), pipeline=[], **more)


def instance(box=(10, 12, 30, 28), label=0, ignore=0):
    return dict(bbox=list(box), bbox_label=label, ignore_flag=ignore)


def check(dataset, stage="train", classes=2, **more):
    model = dict(roi_head=dict(bbox_head=dict(num_classes=classes)))
    check_data({f"{stage}_dataloader": dict(dataset=dataset), "model": model, **more}, [stage])


@pytest.mark.parametrize("kind", ["XMLDataset", "VOCDataset", "mmdet.XMLDataset"])
def test_sound_data_pass_without_a_word(root, kind, capsys):
    dataset = voc(root, kind)
    check(dataset)
    check(dict(type="RepeatDataset", times=2, dataset=dataset), "val")
    check(lines(root, instance(), instance((0, 0, 96, 64), 1)))
    assert capsys.readouterr().out == ""


def rewrite(name, old, new):
    def change(root):
        path = root / "Annotations" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def all_files(old, new):
    return lambda root: [rewrite(f"{number}.xml", old, new)(root) for number in range(4)]


XML = {
    "no object": (all_files("object>", "thing>"), "0 of 4 images left; 4 without objects"),
    "broken": (rewrite("1.xml", "</annotation>", ""), "XMLDataset cannot load .*ParseError"),
    "no box": (rewrite("1.xml", "bndbox>", "box>"), "XMLDataset cannot load its entries"),
    "another size": (rewrite("0.xml", "<width>96", "<width>80"),
                     "0.jpg is loaded with 96 x 64 pixels, the annotation says 80 x 64"),
    "no picture": (lambda root: (root / "JPEGImages" / "2.jpg").unlink(),
                   "1 of 4 sampled pictures are not there, such as .*2.jpg"),
    "broken picture": (lambda root: (root / "JPEGImages" / "2.jpg").write_bytes(b"x"),
                       "2.jpg: broken image"),
    "no file": (lambda root: (root / "Annotations" / "3.xml").unlink(), "cannot load its entries"),
    "small pictures": (all_files("<height>64", "<height>24"), "4 left out by filter_cfg"),
    "backward": (rewrite("0.xml", "<xmax>30", "<xmax>3"), "1 of 4 boxes end before they begin"),
    "fractions": (
        lambda root: [(root / "Annotations" / f"{n}.xml").write_text(xml("cat", (.1, .2, .6, .7)))
                      for n in range(4)],
        "all 4 boxes are under a pixel: fractions where pixels"),
}  # fmt: skip


@pytest.mark.parametrize("case", XML)
def test_xml_files_that_do_not_serve_are_refused(root, case):
    change, said = XML[case]
    change(root)
    with pytest.raises((ValueError, FileNotFoundError), match=f"train data.*{said}"):
        check(voc(root))


def test_names_and_heads_are_compared(root):
    said = "4 without objects of the config's classes, 'Cat'; the annotations have 'cat', 'dog'"
    with pytest.raises(ValueError, match=f"nothing to train on: 0 of 4 images left; {said}"):
        check(voc(root, names=("Cat",)))
    with pytest.raises(ValueError, match=r"2 classes \('cat', 'dog'\), but .*num_classes=20"):
        check(voc(root), classes=20)
    with pytest.raises(ValueError, match="comma"):
        check(voc(root, names="cat"))


def test_ignored_objects_are_nothing_to_measure_but_may_be_detected_on(root):
    all_files("<bndbox>", "<difficult>1</difficult><bndbox>")(root)
    with pytest.raises(ValueError, match="nothing to measure: .* all 4 objects are ignored"):
        check(voc(root, test_mode=True), "val")
    check(voc(root, test_mode=True), "val", val_evaluator=dict(type="CocoMetric", format_only=True))


@pytest.mark.parametrize(
    "found, said",
    [
        ([instance((60, 40, 20, 16))], "1 of 1 boxes end before .* width, height"),
        ([instance(label=0), instance(label=2)], "labels from 0 to 1, of 'cat', 'dog', got 2"),
        ([instance((0, 0, 0.5, 0.5))], "fractions where pixels are expected"),
        ([], "0 of 1 images left; 1 without objects"),
    ],
)
def test_ones_own_data_set_is_checked(root, found, said):
    with pytest.raises(ValueError, match=f"train data, Lines of .*{said}"):
        check(lines(root, *found))


@pytest.mark.parametrize(
    "dataset, why",
    [
        (dict(type="Foreign"), "Foreign"),
        (dict(type="Unregistered"), "Unregistered"),
        (dict(type=Foreign), "BaseDataset"),
        (dict(type="Strict", metainfo={}, pipeline=[]), "lazy_init"),
        (dict(type="Slow"), "full_init"),
        (dict(type="Lines", entries=[("a.jpg", None)], backend_args=dict(backend="local")),
         "backend_args"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_said_in_a_line(dataset, why, capsys):
    measured = dict(test_evaluator=dict(type="CocoMetric", format_only=True))
    check(copy.deepcopy(dataset), "test", **measured)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("test data: not checked before the first step (") and why in line
