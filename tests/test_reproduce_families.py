"""The tables of families: one is tried, and the pages are made from the records."""

from pathlib import Path

import pytest

from gdetkd.detectors.adapter import adapter_for
from gdetkd.evaluation.records import read_json_lines
from gdetkd.reproduce import families, library_detectors
from gdetkd.reproduce.family_trials import alive, batch, build_small, losses_of, try_family

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


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco",  # its mask head is as wide as its res5
        "queryinst/queryinst_r50_fpn_1x_coco",  # as many masks as queries
        "ld/ld_r18-gflv1-r101_fpn_1x_coco",  # with a teacher of its own
    ],
)
def test_it_is_built_as_a_trial_builds_it(name):
    detector, side, _ = build_small(name)
    losses = losses_of(alive(detector, side), batch(side))
    total, _ = detector.parse_losses(losses)
    assert detector.training and total.isfinite()
    data = detector.data_preprocessor(batch(side), True)
    drawn = adapter_for(detector, "student").training_pass(data["inputs"], data["data_samples"])
    assert len(drawn.outputs[-1].rois) > 0


@pytest.mark.parametrize("library", families.SOURCES)
def test_the_page_is_made_of_the_records(library):
    records = read_json_lines(RESULTS / f"{library}.jsonl")
    page = (RESULTS / f"{library}.md").read_text()
    assert records and page == families.families_page(records, library)


@pytest.mark.parametrize("library", ["torchvision", "transformers"])
def test_every_detector_that_a_library_lists_is_on_record(library):
    recorded = {record["name"] for record in read_json_lines(RESULTS / f"{library}.jsonl")}
    assert recorded == {family["name"] for family in library_detectors.families(library)}


def test_a_family_of_transformers_works_in_both_roles():
    found = try_family("transformers/rt_detr", steps=3)
    for role in families.ROLES:
        assert families.works(found[role]), found[role]
        assert families.cell_text(found[role]) == "C F P –"


@pytest.mark.parametrize("name", ["keypointrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_a_detector_of_torchvision_gets_all_that_its_loss_asks_for(name):
    detector, side, _ = build_small(f"torchvision/{name}")
    losses = losses_of(detector, batch(side))
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) == 5


def test_a_detector_without_an_adapter_is_refused_by_name():
    found = try_family("transformers/yolos")
    assert "no adapter for YolosForObjectDetection" in found["student"]["refused"]


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
