"""The table of MMDetection's families: one is tried, and the page is made from the records."""

from pathlib import Path

import pytest

from gdetkd.evaluation.records import read_json_lines
from gdetkd.reproduce import families
from gdetkd.reproduce.family_trials import build_small, try_family

RESULTS = Path(__file__).parents[1] / "results" / "pairs"


@pytest.fixture(scope="module")
def yolof():
    name = "yolof/yolof_r50-c5_8xb8-1x_coco"
    record = dict(name=name, detector="YOLOF", heads=["YOLOFHead"], folders=["yolof"])
    return record | try_family(name, steps=3) | dict(without_model=["common"])


def test_a_family_works_in_both_roles(yolof):
    for role in families.ROLES:
        assert families.works(yolof[role]), yolof[role]
        assert families.cell_text(yolof[role]) == "C F P –"
        assert len(yolof[role]["losses"]) == 3 and yolof[role]["own_losses_equal"]


def test_a_family_without_boxes_says_why():
    found = try_family("solo/solo_r50_fpn_1x_coco")
    assert "SOLO predicts masks without boxes" in found["student"]["refused"]
    assert families.cell_text(found["teacher"]) == "refused"


def test_a_detector_without_a_neck_is_built_and_runs_a_step():
    detector, side, _ = build_small("tridentnet/tridentnet_r50-caffe_1x_coco")
    assert type(detector).__name__ == "TridentFasterRCNN" and side == 64


def test_a_c4_is_built_with_the_narrow_form_that_its_res5_has():
    detector, side, _ = build_small("faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco")
    assert type(detector).__name__ == "FasterRCNN" and detector.with_shared_head and side == 64


def test_records_and_page(yolof, tmp_path):
    path = tmp_path / "pairs" / "mmdet.jsonl"
    families.write(path, yolof)
    families.write(path, dict(yolof, seconds=1.5))
    (record,) = read_json_lines(path)
    assert record == dict(yolof, seconds=1.5)
    page = families.families_page([record])
    assert "**1 of these work as students and 1 as teachers**" in page
    assert "| yolof/yolof_r50-c5_8xb8-1x_coco | YOLOF | YOLOFHead | C F P – | C F P – |" in page
    assert "as student: regression: expected" in page and "0.0 minutes" in page


def test_a_cell_says_what_did_not_work(yolof):
    own = dict(yolof["student"], components=dict(yolof["student"]["components"]))
    own["components"]["imitation"] = dict(start=1.0, end=1.0)
    assert families.cell_text(own) == "C (F) P –" and not families.works(own)
    assert families.cell_text(dict(own, losses=[1.0, None])) == "not finite"
    assert "own losses differ" in families.cell_text(dict(own, own_losses_equal=False))
