"""`gdetkd::NAME` in every place of a config, and paths that are relative to their config."""

import subprocess
import sys

import pytest
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader

from gdetkd.checkpoints.hub import find_config
from gdetkd.training.config import load_config

SHIPPED = "gdetkd::digits_faster_rcnn_r34.pth"


def test_a_shipped_config_is_a_base_in_a_process_that_never_imports_the_package(tmp_path):
    (tmp_path / "mine.py").write_text('_base_ = ["gdetkd::digits/faster_rcnn_r18.py"]\nmine = 1\n')
    code = "from mmengine.config import Config; c = Config.fromfile('mine.py'); print(c.max_steps)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "800", done.stderr


def test_a_base_that_is_not_there_is_named(tmp_path):
    (tmp_path / "mine.py").write_text('_base_ = ["gdetkd::digits/nowhere.py"]\n')
    with pytest.raises(FileNotFoundError, match=r"there is no 'gdetkd::digits/nowhere\.py'"):
        Config.fromfile(tmp_path / "mine.py")


def test_shipped_weights_are_read_where_mmengine_reads_weights():
    state = CheckpointLoader.load_checkpoint(SHIPPED, "cpu")
    assert "backbone.conv1.weight" in state.get("state_dict", state)


@pytest.mark.parametrize("name", ["digits/faster_rcnn_r18", "gdetkd::digits/faster_rcnn_r18"])
def test_a_configs_name_needs_no_suffix(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).endswith("configs/digits/faster_rcnn_r18.py")


def test_paths_in_a_config_are_relative_to_it(tmp_path, monkeypatch):
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("teacher.py", "teacher.pth", "start.pth", "backbone.pth"):
        (folder / name).write_text("")
    (folder / "mine.py").write_text(
        '_base_ = ["gdetkd::digits/gdetkd_faster_rcnn_r18.py"]\n'
        'load_from = "start.pth"\n'
        'pretrained = dict(type="Pretrained", checkpoint="backbone.pth")\n'
        'model = dict(teacher=dict(config="teacher.py", checkpoint="./teacher.pth"),\n'
        "             student=dict(backbone=dict(init_cfg=pretrained)))\n"
    )
    (tmp_path / "start.pth").write_text("another one, in the folder of the command")
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/mine.py")
    teacher, backbone = config.model.teacher, config.model.student.backbone
    found = [config.load_from, teacher.config, teacher.checkpoint, backbone.init_cfg.checkpoint]
    names = ("start.pth", "teacher.py", "teacher.pth", "backbone.pth")
    assert found == [str(folder / name) for name in names]
    kept = load_config("gdetkd::voc07/gdetkd_faster_rcnn_r18.py").model.teacher.checkpoint
    assert kept == "work_dirs/voc07_teacher/epoch_12.pth"  # nothing there: as it is written
