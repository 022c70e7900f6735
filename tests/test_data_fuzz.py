"""The fuzzer that `results/data/fuzz.json` is the record of, on fewer files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzz_annotations import FILES, fuzz, objects_in

RECORD = Path(__file__).parents[1] / "results" / "data" / "fuzz.json"


@pytest.mark.slow
def test_damaged_annotations_lose_nothing_silently(tmp_path):
    record = fuzz(120, 1, tmp_path)
    assert record["failures"] == []
    assert sum(record["files"].values()) == 120 and set(record["files"]) == set(FILES)
    # It does damage: most files have something bad, of many kinds.
    assert record["clean"] < 80 and len(record["problems"]) > 10
    counts = record["objects"]
    assert counts["in"] == counts["out"] + counts["reported"] and counts["reported"] > 20


def test_the_fuzzer_notices_a_lost_object(tmp_path, monkeypatch):
    from gdetkd.datasets import to_coco

    check = to_coco.check_box

    def careless(box, width, height):
        if box[0] > 64:
            raise ValueError("lost")
        check(box, width, height)

    monkeypatch.setattr(to_coco, "check_box", careless)
    assert fuzz(8, 0, tmp_path)["failures"]


def test_objects_are_counted_by_hand():
    xml = b"<annotation><object><part><object/></part></object><object/></annotation>"
    assert objects_in("voc07", xml) == 3
    wrapped = b"<a><object><boxes><bndbox/><bndbox/></boxes><part><bndbox/></part></object></a>"
    assert objects_in("voc07", wrapped) == 2
    assert objects_in("coco", b'{"images": [], "images": []}') is None
    assert objects_in("voc07", b"<annotation>") is None
    two = b"<Object><bndbox/><bndbox/></Object><bndbox/>"
    assert objects_in("xml", b"<a><annotation>" + two + b"</annotation></a>") == 3
    assert objects_in("yolo", b"0 .5 .5 .1 .1\n\nnonsense\n") == 2
    assert objects_in("csv", b"filename,class,xmin,ymin,xmax,ymax\na.jpg,,,,,\nb.jpg,cat\n") == 1
    assert objects_in("csv", b"file,name\n") is None
    assert objects_in("coco", b'{"images": [], "annotations": [1, {}], "categories": []}') == 2
    assert objects_in("bdd100k", b'[{"labels": [{"category": "lane"}, 3]}, {"labels": null}]') == 1


def test_the_record_has_ten_thousand_files_and_no_failure():
    record = json.loads(RECORD.read_text())
    assert sum(record["files"].values()) == 10_000 and record["failures"] == []
    counts = record["objects"]
    assert counts["in"] == counts["out"] + counts["reported"]
