"""`--data` and `--init`: files, classes, sizes, schedule and start of a config, by the data."""

import json
from pathlib import Path

import pytest
import torch
from helpers import faster_rcnn, save_detector
from miniature import write_miniature

from gdetkd.datasets.prepare import prepare
from gdetkd.training.config import load_config
from gdetkd.training.data import FEWEST, check_start, pretrained

STUDENT = "gdetkd::digits/faster_rcnn_r18.py"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Six images of 128 px, a third of them to validate on."""
    folder = tmp_path_factory.mktemp("own")
    write_miniature("json", folder / "raw", range(6), range(0))
    prepare("own", folder / "raw", folder / "prepared", val_fraction=0.34)
    return folder / "prepared"


@pytest.mark.parametrize("layout", ["bdd100k", "voc07", "coco"])
def test_prepared_data_are_trained_and_measured_where_they_lie(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    write_miniature(layout, Path("raw"), range(2), range(2, 4))
    prepare(layout, "raw", "prepared")
    config = load_config(STUDENT, data="prepared")
    for stage in ("train", "val", "test"):
        dataset = config[f"{stage}_dataloader"].dataset
        assert Path(dataset.data_root, dataset.ann_file).is_file()
        images = json.loads(Path(dataset.data_root, dataset.ann_file).read_text())["images"]
        folder = Path(dataset.data_root, dataset.data_prefix.img)
        assert images and all((folder / each["file_name"]).is_file() for each in images)
    for stage in ("val", "test"):
        dataset = config[f"{stage}_dataloader"].dataset
        truth = config[f"{stage}_evaluator"].ann_file
        assert Path(truth).samefile(Path(dataset.data_root, dataset.ann_file))
    classes = config.train_dataloader.dataset.metainfo.classes
    assert config.model.roi_head.bbox_head.num_classes == len(classes)
    assert config.train_cfg.max_iters == 800  # a public data set keeps the config's schedule


def test_own_data_set_sizes_and_schedule(own):
    config = load_config("own/faster_rcnn_r18", data=own)
    summary = json.loads((own / "dataset.json").read_text())
    assert config.model.roi_head.bbox_head.num_classes == len(summary["classes"]) != 80
    (resize,) = [t for t in config.train_dataloader.dataset.pipeline if t["type"] == "Resize"]
    assert resize.scale == (128, 128)
    # Four images in steps of four: 20 passes would be 20 steps.
    assert config.train_cfg.max_iters == FEWEST["pretrained"] == 300
    assert config.param_scheduler[-1].end == 300
    assert config.train_cfg.val_interval == config.default_hooks.checkpoint.interval == 75
    alone = load_config("own/faster_rcnn_r18", data=own, start="none")
    assert alone.train_cfg.max_iters == FEWEST["random"] == 800


def test_a_large_set_gets_20_passes_and_large_images_the_usual_size(own, tmp_path):
    """2,000 images of 4000 x 3000 px in steps of 4, within 1333 x 800: 1067 x 800."""
    summary = json.loads((own / "dataset.json").read_text())
    file = Path(summary["splits"]["train"]["annotations"])
    content = json.loads(file.read_text())
    size = dict(width=3000, height=4000)
    content["images"] = [dict(id=n, file_name=f"{n}.jpg", **size) for n in range(1, 2001)]
    content["annotations"] = [dict(image_id=n) for n in range(1, 2001)]
    (tmp_path / "train.json").write_text(json.dumps(content))
    summary["splits"]["train"]["annotations"] = str(tmp_path / "train.json")
    (tmp_path / "dataset.json").write_text(json.dumps(summary))
    config = load_config("own/retinanet_r18", data=tmp_path)
    assert config.train_cfg.max_iters == 20 * 500
    assert config.test_dataloader.dataset.pipeline[1].scale == (1067, 800)


def test_scales_of_a_range_keep_their_ratio(own):
    config = load_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_ms-3x_coco.py", data=own)
    steps = config.train_dataloader.dataset.dataset.pipeline
    (resize,) = [step for step in steps if step["type"] == "RandomResize"]
    assert resize.scale == [(128, 102), (128, 128)]  # of (1333, 640) and (1333, 800)


def test_a_split_is_tested_on_by_its_name(own):
    config = load_config(STUDENT, data=own, split="train")
    assert config.test_dataloader.dataset.ann_file.endswith("train.json")
    assert config.test_evaluator.ann_file.endswith("train.json")
    assert config.val_evaluator.ann_file.endswith("val.json")
    with pytest.raises(ValueError, match="--split nowhere: expected one of train, val"):
        load_config(STUDENT, data=own, split="nowhere")


def test_a_backbone_starts_from_what_is_said(tmp_path):
    name = "own/faster_rcnn_r18"
    assert pretrained(load_config(name, start="imagenet").model) == ["torchvision://resnet18"]
    none = load_config(name, start="none").model
    assert not pretrained(none)
    assert none.backbone.frozen_stages == -1 and none.backbone.norm_eval is False
    with pytest.raises(ValueError, match="expected a config that names pretrained weights"):
        load_config(STUDENT, start="imagenet")
    save_detector(faster_rcnn(), tmp_path / "detector.pth")
    model = load_config(name, start=str(tmp_path / "detector.pth")).model
    assert model.backbone.init_cfg.prefix == "backbone." and model.neck.init_cfg.prefix == "neck."
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "backbone.pth")
    model = load_config(name, start=str(tmp_path / "backbone.pth")).model
    assert "prefix" not in model.backbone.init_cfg and "init_cfg" not in model.neck


def test_weights_that_cannot_be_fetched_are_a_sentence_with_the_remedy():
    """A port of this machine on which nothing listens."""
    model = dict(
        backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="http://127.0.0.1:9/w.pth"))
    )
    with pytest.raises(OSError, match=r"cannot fetch http://127.0.0.1:9/w.pth.*--init none"):
        check_start(model)
