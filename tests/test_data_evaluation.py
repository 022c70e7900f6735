"""VOC's AP on converted data against the original and the devkit's rule; COCO's submission."""

from __future__ import annotations

import copy
import json
import zipfile

import numpy as np
import pytest
import torch
from miniature import write_miniature
from mmdet.datasets import CocoDataset, VOCDataset
from mmdet.evaluation import VOCMetric
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData

from gdetkd.checkpoints.hub import PACKAGE
from gdetkd.datasets.prepare import prepare
from gdetkd.datasets.readers import voc
from gdetkd.evaluation import submission

BASE = PACKAGE / "configs" / "_base_"


def guesses(boxes, labels, random):
    """Detections as a poor detector makes them: moved, doubled, missed, of another class."""
    found, names = [], []
    for box, label in zip(boxes, labels, strict=True):
        for _ in range(random.integers(0, 4)):
            found.append(box + random.normal(0, 3, 4))
            names.append(label if random.random() < 0.8 else random.integers(20))
    corners = random.uniform(0, 90, (3, 2))
    found += list(np.hstack([corners, corners + random.uniform(5, 38, (3, 2))]))
    names += list(random.integers(0, 20, 3))
    return np.array(found), np.array(names), random.random(len(found))


def devkit_ap(samples, rule):
    """mAP at IoU 0.5 as VOCevaldet.m counts it: samples of (boxes, labels, difficult, detections).

    Boxes hold their last pixel, so width and height are difference + 1. Classes without objects
    are left out of MMDetection's mean only if nothing was detected of them either: none here.
    """
    aps = []
    for label in range(20):
        hits, total = [], 0
        for boxes, labels, difficult, (found, names, scores) in samples:
            mine = labels == label
            total += int((mine & ~difficult).sum())
            taken = np.zeros(len(boxes), bool)
            for place in np.argsort(-scores):
                if names[place] != label:
                    continue
                box, score = found[place], scores[place]
                best, at = 0.0, -1
                for index in np.flatnonzero(mine):
                    sides = np.minimum(box[2:], boxes[index, 2:]) - np.maximum(
                        box[:2], boxes[index, :2]
                    )
                    inter = np.prod(np.maximum(sides + 1, 0))
                    areas = [np.prod(b[2:] - b[:2] + 1) for b in (box, boxes[index])]
                    overlap = inter / (sum(areas) - inter)
                    if overlap > best:
                        best, at = overlap, index
                if best >= 0.5 and difficult[at]:
                    continue
                hits.append((score, best >= 0.5 and not taken[at]))
                if best >= 0.5:
                    taken[at] = True
        if not total:
            aps.append(None)
            continue
        hits = np.array([hit for _, hit in sorted(hits, reverse=True)], bool)
        recall = np.cumsum(hits) / total
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        if rule == "11points":
            points = [precision[recall >= t] for t in np.arange(0, 1.1, 0.1)]
            aps.append(sum(p.max() if len(p) else 0.0 for p in points) / 11)
        else:
            edges = np.concatenate([[0], recall, [1]])
            heights = np.concatenate([[0], precision, [0]])
            heights = np.maximum.accumulate(heights[::-1])[::-1]
            aps.append(float(np.sum(np.diff(edges) * heights[1:])))
    return np.mean([ap for ap in aps if ap is not None])


@pytest.fixture(scope="module")
def voc_data(tmp_path_factory):
    """VOC's layout and its conversion: MMDetection's dataset of each, and the same detections."""
    register_all_modules()
    folder = tmp_path_factory.mktemp("voc")
    write_miniature("voc07", folder / "data")
    done = prepare("voc07", folder / "data", folder / "out")
    pipeline = Config.fromfile(BASE / "voc07.py").test_pipeline
    theirs = VOCDataset(
        data_root=str(folder / "data"),
        ann_file="VOC2007/ImageSets/Main/trainval.txt",
        data_prefix=dict(sub_data_root="VOC2007/"),
        test_mode=True,
        pipeline=copy.deepcopy(pipeline),
    )
    split = done.summary["splits"]["trainval07"]
    ours = CocoDataset(
        ann_file=split["annotations"],
        data_prefix=dict(img=split["images"]),
        metainfo=dict(classes=voc.CLASSES),
        test_mode=True,
        pipeline=copy.deepcopy(pipeline),
    )
    random = np.random.default_rng(0)
    detections = []
    for index in range(len(ours)):
        instances = ours.get_data_info(index)["instances"]
        boxes = np.array([i["bbox"] for i in instances], float)
        detections.append(guesses(boxes, [i["bbox_label"] for i in instances], random))
    return theirs, ours, detections


def measure(dataset, detections, rule):
    metric = VOCMetric(metric="mAP", eval_mode=rule)
    metric.dataset_meta = dict(classes=voc.CLASSES)
    for index, (boxes, labels, scores) in enumerate(detections):
        sample = dataset[index]["data_samples"]
        prediction = InstanceData(
            bboxes=torch.tensor(boxes), labels=torch.tensor(labels), scores=torch.tensor(scores)
        )
        sample = DetDataSample(
            gt_instances=InstanceData(**to_tensors(sample.gt_instances)),
            ignored_instances=InstanceData(**to_tensors(sample.ignored_instances)),
            pred_instances=prediction,
        )
        metric.process({}, [sample.to_dict()])
    return metric.evaluate(len(detections))["pascal_voc/mAP"]


def to_tensors(instances):
    return dict(bboxes=instances.bboxes.tensor, labels=instances.labels)


@pytest.mark.parametrize("rule", ["11points", "area"])
def test_voc_ap_of_converted_data_is_that_of_the_original(voc_data, rule):
    theirs, ours, detections = voc_data
    ap = measure(ours, detections, rule)
    assert 0.1 < ap < 0.9
    assert ap == measure(theirs, detections, rule)
    samples = []
    for index, found in enumerate(detections):
        instances = ours.get_data_info(index)["instances"]
        samples.append(
            (
                np.array([i["bbox"] for i in instances], float),
                np.array([i["bbox_label"] for i in instances]),
                np.array([i["ignore_flag"] == 1 for i in instances]),
                found,
            )
        )
    # Double against single precision; no overlap of these boxes is that close to 0.5.
    assert devkit_ap(samples, rule) == pytest.approx(ap, abs=1e-5)


KNOWN = dict(images=[dict(id=7), dict(id=8)], categories=[dict(id=1), dict(id=90)])
GOOD = dict(image_id=7, category_id=90, bbox=[1.0, 2.5, 3.0, 4.0], score=0.5)


def test_the_best_hundred_of_an_image_are_kept_and_rounded():
    many = [dict(GOOD, score=i / 300, bbox=[0.04, 1.26, 10.01, 9.99]) for i in range(150)]
    flat = [dict(GOOD, image_id=8, bbox=[1, 1, 0.04, 5])]
    kept = submission.tidy(many + flat + [dict(GOOD, image_id=8)])
    assert [d["image_id"] for d in kept] == [7] * 100 + [8]
    assert kept[0] == dict(GOOD, score=round(149 / 300, 5), bbox=[0.0, 1.3, 10.0, 10.0])
    assert kept[99]["score"] == round(50 / 300, 5)
    submission.check(kept, KNOWN)


@pytest.mark.parametrize(
    "detections, said",
    [
        ([], "got none"),
        ([dict(GOOD, image_id="7")], "image_id '7'"),
        ([dict(GOOD, image_id=9)], "image_id 9"),
        ([dict(GOOD, category_id=79)], "category_id 79"),
        ([dict(GOOD, bbox=[1, 2, 3])], "expected bbox"),
        ([dict(GOOD, bbox=[1, 2, -3, 4])], "expected bbox"),
        ([dict(GOOD, score=float("nan"))], "expected bbox"),
        ([dict(GOOD, area=5)], "expected image_id"),
        ([GOOD] * 101, "more than 100 of image 7"),
    ],
)
def test_what_the_server_would_refuse_is_refused(detections, said):
    with pytest.raises(ValueError, match=said):
        submission.check(detections, KNOWN)


@pytest.mark.parametrize(
    "name, inside",
    [
        ("my run.zip", "detections_test-dev2017_my-run_results.json"),
        ("detections_test-dev2017_R50_results.zip", "detections_test-dev2017_R50_results.json"),
    ],
)
def test_the_zip_holds_one_file_of_the_right_name(tmp_path, name, inside):
    submission.write([GOOD], tmp_path / "new" / name)
    with zipfile.ZipFile(tmp_path / "new" / name) as archive:
        assert archive.namelist() == [inside]
        assert json.loads(archive.read(inside)) == [GOOD]


def test_missing_test_dev_is_said_with_what_to_fetch(tmp_path):
    config = Config(dict(test_dataloader=dict(dataset=dict(data_root=str(tmp_path)))))
    with pytest.raises(FileNotFoundError, match="image_info_test2017.zip"):
        submission.submit(config, "none.pth", tmp_path / "x.zip")
    with pytest.raises(ValueError, match="data_root"):
        submission.submit(Config(dict()), "none.pth", tmp_path / "x.zip")
