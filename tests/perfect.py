"""What `gdetkd data` wrote, seen as training and evaluation see it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import cv2
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def written(done, split):
    """The annotation file of a split, as text says it."""
    return json.loads(Path(done.summary["splits"][split]["annotations"]).read_text())


def boxes(done, split):
    """{file name: [(class, box)]} of a split as MMDetection trains on it, by the dataset config."""
    entry = done.summary["splits"][split]
    config = Config.fromfile(Path(done.config))
    dataset = CocoDataset(
        ann_file=entry["annotations"],
        data_prefix=dict(img=entry["images"]),
        metainfo=config.train_dataloader.dataset.metainfo.to_dict(),
        filter_cfg=None,
        test_mode=True,
    )
    found = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        image = cv2.imread(info["img_path"], cv2.IMREAD_COLOR)
        assert image.shape[:2] == (info["height"], info["width"])
        found[os.path.basename(info["img_path"])] = [
            (dataset.metainfo["classes"][i["bbox_label"]], [round(v, 4) for v in i["bbox"]])
            for i in info["instances"]
        ]
        for instance in info["instances"]:
            x1, y1, x2, y2 = instance["bbox"]
            assert x1 >= -1 and y1 >= -1 and x2 <= info["width"] + 1 and y2 <= info["height"] + 1
    return found


def perfect_ap(done, split):
    """AP of detections that repeat the annotations of a written file."""
    path = done.summary["splits"][split]["annotations"]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        keys = ("image_id", "category_id", "bbox")
        found = [
            {**{key: entry[key] for key in keys}, "score": 0.9}
            for entry in truth.anns.values()
            if not entry["iscrowd"]
        ]
        if not found:
            return None
        run = COCOeval(truth, truth.loadRes(found), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats[0]
