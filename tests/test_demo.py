"""The demo from end to end, short: real training, real evaluation, a table and a picture."""

from __future__ import annotations

import cv2
import pytest
from click.testing import CliRunner

from gdetkd.cli import cli
from gdetkd.demo import draw_runs
from gdetkd.detectors.mmdet.building import plain_student
from gdetkd.training.config import load_config


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
    config.model.test_cfg.rcnn.score_thr = 0.0  # three steps teach no confidence
    student = init_detector(config, str(folder / "distilled" / "iter_3_student.pth"), device="cpu")
    assert student.dataset_meta["classes"] == list("0123456789")
    found = inference_detector(student, str(folder.parent / "digits" / "val" / "000000.jpg"))
    assert len(found.pred_instances) > 0
    assert found.pred_instances.labels.max() < 10


def test_runs_whose_checkpoints_are_not_there_are_not_drawn(tmp_path):
    """Those of a benchmark with another schedule, or that have failed."""
    for run in ("baseline_0", "gdetkd_0"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "iter_4.pth").touch()
    draw_runs(tmp_path, tmp_path / "comparison.png")
    assert not (tmp_path / "comparison.png").exists()


def test_the_demo_prints_little(demo):
    _, done = demo
    assert len(done.output.strip().splitlines()) <= 40
    assert not any(word in done.output for word in ("loading annotations", "mmengine", "DONE (t"))
