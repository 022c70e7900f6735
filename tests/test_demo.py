"""The demo from end to end, short: real training, real evaluation, a table and a picture."""

from __future__ import annotations

import cv2
import pytest
from click.testing import CliRunner

from gdetkd.cli import cli
from gdetkd.engine.training import load_config, plain_student


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gdetkd.datasets.digits.SPLITS", {"train": 24, "val": 10, "test": 2})
        arguments = ["demo", "--steps", "3", "--data-root", str(root / "digits")]
        done = CliRunner().invoke(
            cli, [*arguments, "--work-dir", str(root / "out")], catch_exceptions=False
        )
    return root / "out", done


def test_demo_compares_teacher_baseline_and_student(demo):
    _, done = demo
    assert done.exit_code == 0
    rows = [line for line in done.output.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows] == [
        "teacher",
        "baseline student",
        "distilled student",
    ]
    # The shipped teacher finds most digits; three steps teach a student nothing.
    scores = [float(row.split("│")[2]) for row in rows]
    assert scores[0] > 0.3 > max(scores[1:])


def test_demo_leaves_a_picture_and_both_students(demo):
    folder, done = demo
    picture = cv2.imread(str(folder / "comparison.png"))
    assert picture is not None and min(picture.shape[:2]) > 400
    assert "comparison.png" in done.output
    assert (folder / "baseline" / "iter_3.pth").exists()
    assert (folder / "distilled" / "iter_3_student.pth").exists()


def test_the_demos_student_loads_in_mmdetection(demo, tmp_path):
    from mmdet.apis import inference_detector, init_detector

    folder, _ = demo
    config = plain_student(load_config("gdetkd::digits/gdetkd_faster_rcnn_r18.py"))
    config.test_dataloader.dataset.data_root = str(folder.parent / "digits")
    student = init_detector(config, str(folder / "distilled" / "iter_3_student.pth"), device="cpu")
    assert student.dataset_meta["classes"] == list("0123456789")
    found = inference_detector(student, str(folder.parent / "digits" / "val" / "000000.jpg"))
    assert len(found.pred_instances.bboxes) >= 0
