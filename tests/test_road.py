"""From thirty pictures of one's own to a distilled student: the commands, as a user meets them."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import pytest
import torch
from miniature import write_miniature
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from processes import gdetkd, sentence, until

from gdetkd.evaluation.detections import true_boxes
from gdetkd.evaluation.images import stored_images
from gdetkd.launch.plan import build_with_random_teacher
from gdetkd.launch.rehearsal import rehearse
from gdetkd.training.config import load_config
from gdetkd.training.runner import train

SMALL = '_base_ = ["gdetkd::digits/faster_rcnn_r18.py"]\ntrain_dataloader = dict(batch_size=2)\n'
SHORT = ("--cfg-options", "train_cfg.max_iters=4", "train_cfg.val_interval=4",
         "default_hooks.checkpoint.interval=4")  # fmt: skip
# What MMEngine, MMDetection, pycocotools and PyTorch print of a run.
LIBRARIES = ("mmengine", "loading annotations", "Done (t=", "creating index", "UserWarning",
             "Average Precision", "Loads checkpoint", "DONE (t", "System environment", " - INFO - ",
             "FutureWarning", "base_batch_size")  # fmt: skip


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """The folder in which all commands ran, and what each of them printed."""
    folder = tmp_path_factory.mktemp("road")
    write_miniature("json", folder / "raw", range(30), range(0))
    (folder / "teacher.py").write_text(SMALL)
    (folder / "student.py").write_text(SMALL + "model = dict(backbone=dict(depth=18))\n")
    commands = dict(
        data=("data", "own", "--root", "raw", "--out", "own", "--val-fraction", "0.2"),
        train=("train", "teacher.py", "--data", "own", *SHORT),
        distill=("distill", "teacher.py", "student.py", "--data", "own", "--seed", "3", *SHORT),
        test=("test", "student_distilled.py", "work_dirs/student_distilled/iter_4.pth",
              "--data", "own", "--split", "train"),
        detect=("detect", "student_distilled.py", "work_dirs/student_distilled/iter_4.pth",
                "raw/images", "--out", "found", "--threshold", "0"),
    )  # fmt: skip
    printed = {}
    for name, command in commands.items():
        code, printed[name] = gdetkd(folder, *command).wait()
        assert code == 0, printed[name]
    return folder, printed


def test_the_same_commands_serve_other_libraries(road):
    """A torchvision teacher is trained, and teaches a student of transformers."""
    folder, _ = road
    teacher = "own/torchvision_faster_rcnn_mobilenet_v3"
    small = ("train_dataloader.batch_size=2", "train_dataloader.num_workers=0",
             "train_dataloader.persistent_workers=False")  # fmt: skip
    commands = (
        ("train", teacher, "--data", "own", "--init", "none", *SHORT, *small),
        ("distill", teacher, "own/rt_detr_r18", "--data", "own", "--init", "none", "--out",
         "other.py", *SHORT, *small),
        ("test", "other.py", "work_dirs/other/iter_4.pth", "--data", "own"),
    )  # fmt: skip
    for command in commands:
        code, printed = gdetkd(folder, *command).wait()
        assert code == 0, printed
        assert len(re.split(r"[\r\n]+", printed.strip())) <= 40, printed
        assert [word for word in LIBRARIES if word in printed] == [], printed
    assert "coco/bbox_mAP" in printed
    config = Config.fromfile(folder / "other.py")
    trained = Config.fromfile(config.model.teacher.config).model
    assert (trained.type, trained.min_size, trained.max_size) == ("TorchvisionDetector", 128, 128)
    state = torch.load(folder / "work_dirs/other/iter_4_student.pth", weights_only=True)
    assert next(iter(state["state_dict"])).startswith("model.backbone.model.embedder.")


@pytest.mark.parametrize("command", ["train", "distill", "test", "detect"])
def test_a_command_prints_little_and_nothing_of_the_libraries(road, command):
    _, printed = road
    lines = re.split(r"[\r\n]+", printed[command].strip())
    assert len(lines) <= 40, printed[command]
    assert [word for word in LIBRARIES if word in printed[command]] == [], printed[command]


def test_the_libraries_prints_are_in_a_file(road):
    folder, _ = road
    text = (folder / "work_dirs" / "student_distilled" / "console.log").read_text()
    assert "loading annotations" in text and "Average Precision" in text


def test_a_teacher_trained_before_is_found_and_shown_beside_its_student(road):
    folder, printed = road
    config = Config.fromfile(folder / "student_distilled.py")
    assert config.model.teacher.checkpoint == str(folder / "work_dirs/teacher/iter_4.pth")
    assert len((folder / "student_distilled.py").read_text().splitlines()) < 150
    assert re.search(r"detector .*AP .*AP50.*AR100", printed["distill"])
    assert re.search(r"teacher +│", printed["distill"])
    assert "Teacher on the validation set: coco/bbox_mAP 0.0" in printed["distill"]
    assert "Warning: The teacher is as good as dead" in printed["distill"]
    dumped = Config.fromfile(folder / "work_dirs/student_distilled/student_distilled.py")
    assert dumped.randomness.seed == 3


def test_prepared_images_are_read_with_their_objects(road):
    folder, _ = road
    split = json.loads((folder / "own" / "dataset.json").read_text())["splits"]["val"]
    images = stored_images(folder / "own")
    boxes, labels, _ = zip(*true_boxes(images), strict=True)
    assert len(images) == split["count"] > 1
    assert sum(map(len, labels)) == sum(split["objects"].values())
    assert all((each[:, 2:] > each[:, :2]).all() for each in boxes)
    with pytest.raises(KeyError, match="nowhere"):
        stored_images(folder / "own", "nowhere")


def test_a_new_process_compares_what_trainings_left(road):
    """By the configs in their work dirs, which name the package's hooks and loops."""
    folder, _ = road
    runs = [folder / "work_dirs" / name for name in ("teacher", "student_distilled")]
    command = [sys.executable, "-m", "gdetkd.cli", "compare", *(run / "iter_4.pth" for run in runs)]
    for run in runs:
        command += ["--config", run / f"{run.name}.py"]
    done = subprocess.run([*command, "--out", "two.html"], cwd=folder, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert [word for word in LIBRARIES if word in done.stdout.decode()] == []
    assert "iter_4" in (folder / "two.html").read_text()


def test_recall_stands_beside_precision(road):
    assert "coco/bbox_AR@100" in road[1]["test"] and "on train" in road[1]["test"]


def test_every_picture_is_drawn_and_listed(road):
    folder, printed = road
    found = json.loads((folder / "found" / "detections.json").read_text())
    assert (
        len(found) == 30
        and f"30 pictures with {sum(len(e['boxes']) for e in found)}" in (printed["detect"])
    )
    names = set(json.loads((folder / "own" / "dataset.json").read_text())["classes"])
    for entry in found:
        assert cv2.imread(str(folder / "found" / entry["picture"])).shape == (128, 128, 3)
        assert len(entry["boxes"]) == len(entry["scores"]) == len(entry["labels"])
        assert set(entry["labels"]) <= names and entry["scores"] == sorted(entry["scores"])[::-1]


def test_the_config_of_the_teacher_for_the_student_is_named(road, tmp_path):
    """The student alone, of another width than the config that is its teacher's."""
    folder, _ = road
    (folder / "teacher.py").write_text(SMALL + "model = dict(backbone=dict(depth=34))\n")
    code, said = gdetkd(
        folder, "test", "teacher.py", "work_dirs/student_distilled/iter_4_student.pth",
        "--data", "own", "--work-dir", tmp_path,
    ).wait()  # fmt: skip
    assert code == 1 and "teacher is the config of its teacher" in sentence(said)
    assert "the student's is work_dirs/student_distilled/student_distilled.py" in sentence(said)


def test_an_interrupt_saves_says_where_and_the_run_goes_on(road):
    folder, _ = road
    command = ("train", "student.py", "--data", "own", "--work-dir", "stopped")
    child = gdetkd(folder, *command, "--cfg-options", "train_cfg.max_iters=5000",
                   "default_hooks.logger.interval=1")  # fmt: skip
    until(lambda: list((folder / "stopped").glob("*/vis_data/scalars.json")))
    time.sleep(0.3)
    os.kill(child.pid, signal.SIGINT)
    code, said = child.wait()
    stopped = re.search(r"Stopped after step (\d+) of 5000. Last checkpoint: (\S+)\. ", said)
    assert code == 130 and stopped, said
    step = int(stopped[1])
    assert stopped[2] == str(folder / "stopped" / f"iter_{step}.pth")
    assert (folder / stopped[2]).is_file()
    again = said.splitlines()[-1].split()
    assert again[:2] == ["gdetkd", "train"] and again[-1] == "--resume"
    again[again.index("train_cfg.max_iters=5000")] = f"train_cfg.max_iters={step + 1}"
    code, said = gdetkd(folder, *again[1:]).wait()
    assert code == 0 and f"After {step + 1} steps" in said, said


@HOOKS.register_module()
class StepClock(Hook):
    """Seconds of this process, which others on the machine do not disturb, from step 3 on."""

    seconds, _began = 0.0, None

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        StepClock._began = StepClock._began or time.process_time()
        StepClock.seconds = time.process_time() - StepClock._began


def test_a_plans_step_takes_as_long_as_the_runs(road, tmp_path, monkeypatch):
    folder, _ = road
    monkeypatch.chdir(folder)
    options = {"train_cfg.max_iters": 16, "train_cfg.val_interval": 100}
    config = load_config("student_distilled.py", options, work_dir=tmp_path)
    planned = rehearse(config, build_with_random_teacher(config.model, tmp_path))
    config.custom_hooks = [*config.custom_hooks, dict(type="StepClock")]
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    train(config)
    step = StepClock.seconds / 15 / torch.get_num_threads()  # between 16 steps
    assert planned.size == (128, 128) and planned.validation > 0
    assert 1 / 1.5 < planned.step / step < 1.5, (planned, step)


@pytest.mark.slow
def test_the_road_on_real_pictures(tmp_path):
    """Tree crowns in tiles, with detectors that are small enough for a test, for two steps."""
    from deepforest_road import run

    short = ("--cfg-options", "train_cfg.max_iters=2", "train_cfg.val_interval=2",
             "default_hooks.checkpoint.interval=2", "train_dataloader.batch_size=2",
             "val_dataloader.dataset.indices=2", "--init", "none")  # fmt: skip
    pair = ("digits/faster_rcnn_r18", "digits/retinanet_r18")
    try:
        found = run(tmp_path, tmp_path / "runs.jsonl", *pair, [0], *short)
    except OSError as error:
        pytest.skip(f"{error}")
    summary = json.loads((tmp_path / "crowns" / "dataset.json").read_text())
    assert summary["classes"] == ["Tree"] and summary["splits"]["val"]["count"] > 1
    assert list(found["run"]) == ["teacher", "alone", "distilled"] and set(found["steps"]) == {2}
    assert found["AP"].between(0, 1).all()
