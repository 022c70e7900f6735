"""The shipped detectors and their records."""

from __future__ import annotations

import json

import pytest

from gdetkd.reproduce import report
from gdetkd.reproduce.teacher import STUDENTS


def test_the_shipped_students_are_those_of_the_records():
    runs = report.runs()
    for name, weights in STUDENTS.items():
        shipped = json.loads(weights.with_suffix(".json").read_text())
        run = runs[(runs["experiment"] == name) & (runs["seed"] == 0)].iloc[-1]
        assert shipped["AP"] == pytest.approx(run["AP"], abs=0.002)  # fp16
        assert shipped["megabytes"] <= 4


def test_the_shipped_teacher_is_as_good_as_the_benchmark_asks():
    teacher = json.loads((report.ASSETS / "digits_faster_rcnn_r34.json").read_text())
    assert teacher["AP"] >= 0.45
    assert teacher["megabytes"] <= 15
