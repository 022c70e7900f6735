"""Data that do not fit their config are refused before the first step, with file and cause."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
from helpers import faster_rcnn, run_config, save_detector
from mmdet.datasets import CocoDataset
from PIL import Image

from gdetkd.datasets.config_check import check_data
from gdetkd.evaluation.testing import test as run_test
from gdetkd.training.runner import train


@pytest.fixture
def config(tmp_path, digits):
    """A config of a tiny run on a copy of digits that a test may damage."""
    shutil.copytree(digits, tmp_path / "data")
    config = run_config(faster_rcnn(), tmp_path / "data", tmp_path / "work", steps=2)
    for part in ("dataloader", "cfg", "evaluator"):
        config[f"test_{part}"] = copy.deepcopy(config[f"val_{part}"])
    config.test_cfg.type = "TestLoop"
    return config


def edit(config, change, stage="train"):
    """Change the annotation file of a stage."""
    dataset = config[f"{stage}_dataloader"].dataset
    path = Path(dataset.data_root) / dataset.ann_file
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(result if result is not None else content))


def names(*values):
    def change(config):
        for stage in ("train", "val", "test"):
            config[f"{stage}_dataloader"].dataset.metainfo = dict(classes=values)

    return change


def content(change, stage="train"):
    return lambda config: edit(config, change, stage)


def empty(data):
    data["annotations"] = []


def relative(data):
    for entry in data["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.3, 0.4]


def sort_names(data):
    data["categories"] = data["categories"][::-1]


def drop_area(data):
    del data["annotations"][0]["area"]


def number_from_zero(data):
    data["annotations"][0]["id"] = 0


def other_images(data):
    data["images"] = [dict(entry, id=entry["id"] + 1000) for entry in data["images"]]
    data["annotations"] = [dict(e, image_id=e["image_id"] + 1000) for e in data["annotations"]]


def filter_all(config):
    config.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=200)


def remove_picture(config):
    dataset = config.train_dataloader.dataset
    (Path(dataset.data_root) / dataset.data_prefix.img / "000000.jpg").unlink()


def turn_picture(config):
    dataset = config.train_dataloader.dataset
    path = Path(dataset.data_root) / dataset.data_prefix.img / "000000.jpg"
    Image.open(path).resize((128, 100)).save(path)


def mark_bytes(config):
    dataset = config.val_dataloader.dataset
    path = Path(dataset.data_root) / dataset.ann_file
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def more_classes(config):
    config.model.roi_head.bbox_head.num_classes = 80


def evaluator_of_other_images(config):
    dataset = config.val_dataloader.dataset
    path = Path(dataset.data_root) / dataset.ann_file
    data = json.loads(path.read_text())
    other_images(data)
    other = path.with_name("other.json")
    other.write_text(json.dumps(data))
    config.val_evaluator.ann_file = str(other)


WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WRONG = {
    "other names": (names(*WORDS), r"0 of 16 images left; the annotations have '0', .*'zero', "),
    "one name is wrong": (names(*"012345678x"), "the config's 'x' are no categories of the file"),
    "other order": (content(sort_names), "label 0 would be '9', the config says '0'"),
    "numbers as names": (names(1, 2), r"expected metainfo.classes to be class names, got \(1, 2\)"),
    "all empty": (content(empty), "nothing to train on: 0 of 16 images left; 16 without objects"),
    "all small": (filter_all, r"16 with a side under 200 px \(filter_cfg.min_size\)"),
    "relative boxes": (content(relative), "fractions where pixels are expected"),
    "no area": (content(drop_area), r"1 of \d+ annotations have no area"),
    "id 0": (content(number_from_zero, "val"), "an annotation has id 0"),
    "val empty": (content(empty, "val"), "val data, .*nothing to measure"),
    "byte order mark": (mark_bytes, "expected JSON in plain UTF-8"),
    "heads": (more_classes, "10 classes .*, but the model's bbox_head has num_classes=80"),
    "evaluator": (evaluator_of_other_images, "8 of 8 images are not in the evaluator's"),
    "picture missing": (remove_picture, "1 of 8 sampled pictures are not there, .*000000.jpg"),
    "picture of another size": (
        turn_picture,
        "is loaded with 128 x 100 pixels, the annotation says 128 x 128",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_data_that_do_not_fit_are_refused(config, case):
    change, said = WRONG[case]
    check_data(config)
    change(config)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        check_data(config)


WRAPPERS = {
    "repeated": lambda part: dict(type="RepeatDataset", times=2, dataset=part),
    "balanced": lambda part: dict(type="ClassBalancedDataset", oversample_thr=0.1, dataset=part),
    "mixed": lambda part: dict(type="MultiImageMixDataset", dataset=part, pipeline=[]),
    "joined and nested": lambda part: dict(
        type="ConcatDataset",
        datasets=[dict(type="RepeatDataset", times=2, dataset=copy.deepcopy(SOUND)), part],
    ),
    "its type by class": lambda part: dict(part, type=CocoDataset),
    "its type with a scope": lambda part: dict(part, type="mmdet.CocoDataset"),
}
SOUND = {}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_data_sets_inside_wrappers_are_checked(config, wrapper):
    SOUND.update(copy.deepcopy(config.train_dataloader.dataset))
    config.train_dataloader.dataset = WRAPPERS[wrapper](SOUND | {})
    check_data(config, ["train"])
    part = dict(SOUND, metainfo=dict(classes=WORDS))
    config.train_dataloader.dataset = WRAPPERS[wrapper](part)
    with pytest.raises(ValueError, match="0 of 16 images left; the annotations have '0', "):
        check_data(config, ["train"])


def test_images_without_annotations_may_be_detected_on_for_a_server(config):
    config.test_evaluator = dict(config.test_evaluator, format_only=True)
    edit(config, lambda data: data.pop("annotations") and None, "test")
    check_data(config, ["test"])
    config.test_evaluator.pop("format_only")
    with pytest.raises(ValueError, match="expected lists of images, annotations, categories"):
        check_data(config, ["test"])


def test_some_of_the_files_classes_may_be_wanted(config):
    names("3", "7")(config)
    config.model.roi_head.bbox_head.num_classes = 2
    check_data(config, ["train"])


def test_training_and_testing_check_first(config, tmp_path):
    weights = tmp_path / "weights.pth"
    save_detector(faster_rcnn(), weights)
    wrong = copy.deepcopy(config)
    names(*WORDS)(wrong)
    with pytest.raises(ValueError, match="train data, .*0 of 16 images left"):
        train(wrong)
    with pytest.raises(ValueError, match="test data, .*0 of 8 images left"):
        run_test(wrong, str(weights))
