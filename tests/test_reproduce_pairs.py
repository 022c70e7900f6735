"""The matrix of pairs: a miniature of it, and the committed table is made from its records."""

import copy
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gdetkd.cli import cli
from gdetkd.evaluation.records import read_json_lines
from gdetkd.reproduce import pairs
from gdetkd.reproduce.tiny_models import ZOO, tiny_model

RESULTS = Path(__file__).parents[1] / "results" / "digits"
MINIATURE = [
    ("faster_rcnn", "cascade_rcnn"),
    ("faster_rcnn", "deformable_detr"),
    ("retinanet", "faster_rcnn"),
    ("fcos", "retinanet"),
]


@pytest.fixture(scope="module")
def miniature(digits, tmp_path_factory):
    """Four pairs, four steps each; the lines it reported."""
    folder, lines = tmp_path_factory.mktemp("pairs"), []
    path = folder / "pairs.jsonl"
    pairs.run_pairs(MINIATURE, path, folder, digits, steps=4, report=lines.append)
    return read_json_lines(path), lines, path


def test_what_each_pair_can_have(miniature):
    found, lines, _ = miniature
    assert [(record["student"], record["teacher"]) for record in found] == MINIATURE
    texts = [pairs.cell_text(record).replace("(", "").replace(")", "") for record in found]
    assert texts == ["C F P –", "C F – –", "C F P –", "C F P –"]
    for record in found:
        assert len(record["losses"]) == 4 and record["seconds"] > 0 and record["commit"]
    assert len(lines) == 4 and lines[0].startswith("[1/4] Faster R-CNN of Cascade R-CNN: C F P –")


def test_each_component_falls(miniature):
    found, _, _ = miniature
    for record in found:
        for name, own in record["components"].items():
            assert "refused" in own or pairs.falls(own), (record["student"], name, own)


def test_a_refusal_is_a_sentence_with_both_names(miniature):
    found, _, _ = miniature
    text = found[0]["components"]["regression"]["refused"]
    assert "student (FasterRCNN)" in text and "teacher (CascadeRCNN, stage 2)" in text
    page = pairs.pairs_page(found)
    assert f"- Faster R-CNN of Cascade R-CNN: {text}" in page
    assert page.count("not run") == len(pairs.cells()) - 4


def test_a_pair_that_is_run_again_replaces_its_record(miniature, tmp_path):
    found, _, _ = miniature
    path = tmp_path / "pairs.jsonl"
    pairs.write(path, found[::-1])
    again = dict(found[1], seconds=-1.0)
    pairs.write(path, [again])
    assert read_json_lines(path) == [found[0], again, *found[2:]]


def test_what_a_cell_says(miniature):
    record = copy.deepcopy(miniature[0][2])
    assert pairs.cell_text(record) == "C F P –"
    record["components"]["imitation"]["end"] = record["components"]["imitation"]["start"]
    assert pairs.cell_text(record) == "C (F) P –"
    record["losses"] = record["losses"][:2]
    assert pairs.cell_text(record) == "not finite"
    for own in record["components"].values():
        own["refused"] = "no"
    record["losses"] = []
    assert pairs.cell_text(record) == "refused"


def test_cells():
    assert len(pairs.cells()) == len(pairs.STUDENTS) * len(pairs.TEACHERS) == 56
    assert pairs.cells(["fcos:*", "*:gfl"])[0] == ("faster_rcnn", "gfl")
    assert len(pairs.cells(["fcos:*", "*:gfl"])) == 8 + 7 - 1
    result = CliRunner().invoke(cli, ["reproduce", "pairs", "--only", "ssd:*", "--steps", "1"])
    assert isinstance(result.exception, ValueError) and "'ssd:*'" in str(result.exception)


def test_small_detectors():
    assert set(pairs.TEACHERS) <= set(ZOO)
    with pytest.raises(ValueError, match="yolox"):
        tiny_model("yolox")
    with pytest.raises(ValueError, match="16 or 32"):
        tiny_model("faster_rcnn_c4", base=8)


# --- What is committed ----------------------------------------------------------------------------


def test_the_committed_table_is_made_from_the_committed_records():
    found = read_json_lines(RESULTS / "pairs.jsonl")
    assert (RESULTS / "pairs.md").read_text() == pairs.pairs_page(found)


def test_every_pair_is_on_record_and_trains_or_is_refused():
    found = read_json_lines(RESULTS / "pairs.jsonl")
    assert [(record["student"], record["teacher"]) for record in found] == pairs.cells()
    for record in found:
        assert record["steps"] >= 20 and len(record["losses"]) in (0, record["steps"])
        for own in record["components"].values():
            assert own.get("refused") or pairs.falls(own), (record["student"], record["teacher"])
    json.dumps(found, allow_nan=False)
