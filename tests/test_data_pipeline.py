"""Thirty images in each format: verified, trained on, tested, exported by the README's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from miniature import write_miniature
from mmdet.apis import init_detector
from pycocotools.coco import COCO

from gdetkd.checkpoints.hub import PACKAGE
from gdetkd.cli import cli

BASE = PACKAGE / "configs" / "_base_"
# A detector of digits on the data set's own base, two steps long and at the images' own size.
CONFIG = """
_base_ = ["{data}", "{base}/digits_faster_rcnn.py", "{base}/digits_schedule.py",
          "{base}/runtime.py"]
model = dict(roi_head=dict(bbox_head=dict(num_classes={classes})),
             test_cfg=dict(rcnn=dict(score_thr=0.0)))
train_cfg = dict(max_iters=2, val_interval=2)
small = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, **small)
val_dataloader = dict(batch_size=5, **small)
test_dataloader = val_dataloader
"""
CLASSES = dict(coco=80, voc07=20, bdd100k=10)
DATA = dict(
    coco="mmdet::_base_/datasets/coco_detection.py",
    voc07=f"{BASE}/voc07.py",
    bdd100k=f"{BASE}/bdd100k.py",
)


def gdetkd(*arguments):
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def overrides(data, root, out):
    """Where the data lie, and images of 128 px as they are, as `--cfg-options`."""
    values = {}
    for stage in ("train", "val", "test"):
        dataset = f"{stage}_dataloader.dataset"
        values[f"{dataset}.data_root"] = root if data == "coco" else out
        step = 2 if stage == "train" else 1
        values[f"{dataset}.pipeline.{step}.scale"] = (128, 128)
        file = {"coco": "annotations/instances_val2017.json", "bdd100k": "annotations/val.json"}
        if stage != "train" and data in file:
            values[f"{stage}_evaluator.ann_file"] = (root if data == "coco" else out) / file[data]
    return [part for k, v in values.items() for part in ("--cfg-options", f"{k}={v}")]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["coco", "voc07", "bdd100k"])
def test_thirty_images_train_test_and_export(data, tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    write_miniature(data, root)
    gdetkd("data", data, "--root", root, "--out", out)
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(base=BASE, data=DATA[data], classes=CLASSES[data]))
    where = overrides(data, root, out)
    gdetkd("train", config, "--work-dir", tmp_path / "run", *where)
    checkpoint = tmp_path / "run" / "iter_2.pth"
    shown = gdetkd("test", config, checkpoint, "--work-dir", tmp_path / "test", *where)
    names = ["voc07_11points/AP50", "voc07_area/AP50"] if data == "voc07" else ["coco/bbox_mAP_50"]
    assert all(name in shown for name in names)
    gdetkd("export", checkpoint, tmp_path / "student.pth")
    assert init_detector(str(config), str(tmp_path / "student.pth"), device="cpu")
    if data != "coco":
        return
    file = tmp_path / "detections_test-dev2017_mini_results.zip"
    gdetkd("test", config, checkpoint, "--submission", file, "--work-dir", tmp_path / "dev", *where)
    with zipfile.ZipFile(file) as archive:
        (name,) = archive.namelist()
        detections = json.loads(archive.read(name))
    assert name == "detections_test-dev2017_mini_results.json"
    known = COCO(root / "annotations" / "image_info_test-dev2017.json")
    assert len(known.loadRes(detections).anns) == len(detections) > 0
    assert {d["image_id"] for d in detections} <= set(known.imgs)
    assert max(d["category_id"] for d in detections) > 80  # COCO's ids, not labels


DISTILLED = """
_base_ = ["plain.py", "{base}/gdetkd.py"]
model = dict(
    _delete_=True, type="DistilledDetector", student={{{{_base_.model}}}},
    teacher=dict(config="{folder}/plain.py", checkpoint="{folder}/teacher/iter_2.pth"),
    components=dict(imitation=dict(weight=1.0), contrastive=dict(weight=0.5, queue_capacity=200)),
    transfer_heads=True,
)
train_cfg = dict(max_iters=4, val_interval=2)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_script_of_the_headline_verifies_trains_tests_and_exports(tmp_path):
    """As it stands, on two processes and thirty images in COCO's layout."""
    root = tmp_path / "coco"
    write_miniature("coco", root)
    plain = CONFIG.format(base=BASE, data=DATA["coco"], classes=80)
    (tmp_path / "plain.py").write_text(plain)
    (tmp_path / "distilled.py").write_text(DISTILLED.format(base=BASE, folder=tmp_path))
    gdetkd("train", tmp_path / "plain.py", "--work-dir", tmp_path / "teacher",
           *overrides("coco", root, None))  # fmt: skip
    script = ["sh", str(PACKAGE / "launch" / "train_coco_8gpu.sh")]
    environment = dict(
        os.environ, COCO=str(root), CONFIG=str(tmp_path / "distilled.py"), GPUS="2",
        WORK=str(tmp_path / "work"),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )  # fmt: skip
    small = [f"{stage}_dataloader.dataset.pipeline.{place}.scale=(128,128)"
             for stage, place in (("train", 2), ("val", 1), ("test", 1))]  # fmt: skip
    done = subprocess.run(
        [*script, "--cfg-options", *small], env=environment, cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "coco/bbox_mAP" in done.stdout
    assert (tmp_path / "work" / "iter_4.pth").exists()
    student = tmp_path / "work" / "student_fp16.pth"
    assert init_detector(str(tmp_path / "plain.py"), str(student), device="cpu")
