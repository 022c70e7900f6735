"""Checkpoints from before `Distiller`, with their old names, are read by today's."""

from collections import OrderedDict

import pytest
import torch
from helpers import distilled, faster_rcnn, run, run_config, save_detector

from gdetkd.checkpoints.migration import is_old, rename_old_keys
from gdetkd.checkpoints.reading import read_checkpoint
from gdetkd.checkpoints.student import export_student
from gdetkd.detectors.mmdet.building import load_detector

COMPONENTS = dict(
    contrastive=dict(weight=0.5, dim=8, queue_capacity=40), masked_imitation=dict(weight=1.0)
)


def old_names(state):
    """Under the names of before."""
    names = (
        (key, key.replace("distiller.", "").replace(".masked_imitation.", ".masked."))
        for key in state
    )
    result = OrderedDict((old, state[key]) for key, old in names)
    result._metadata = OrderedDict(
        (key.replace("distiller.", "").replace(".masked_imitation", ".masked"), value)
        for key, value in getattr(state, "_metadata", {}).items()
    )
    return result


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_detector(faster_rcnn(), tmp_path_factory.mktemp("migration") / "teacher.pth")


@pytest.fixture(scope="module")
def old_run(teacher, digits, tmp_path_factory):
    """A run of two steps whose checkpoint is rewritten under the old names; the run's model."""
    folder = tmp_path_factory.mktemp("old")
    model = distilled(faster_rcnn(), teacher, COMPONENTS)
    hook = dict(type="CheckpointHook", by_epoch=False, interval=2)
    config = run_config(model, digits, folder, steps=2, default_hooks__checkpoint=hook)
    runner, _ = run(config)
    checkpoint = torch.load(folder / "iter_2.pth", weights_only=False)
    checkpoint["state_dict"] = old_names(checkpoint["state_dict"])
    assert "objective.0.components.masked.adapt.0.weight" in checkpoint["state_dict"]
    torch.save(checkpoint, folder / "old.pth")
    return runner.model, folder / "old.pth"


def test_every_weight_is_found_under_its_new_name(old_run):
    model, path = old_run
    state = read_checkpoint(path)["state_dict"]
    assert list(state) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(state[name], value), name
    assert state._metadata["distiller.student.backbone.bn1"]["version"] == 2


def test_a_training_resumes_from_it(old_run, teacher, digits, tmp_path):
    model, path = old_run
    config = distilled(faster_rcnn(), teacher, COMPONENTS)
    resumed, recorded = run(
        run_config(config, digits, tmp_path, steps=3, load_from=str(path), resume=True)
    )
    for name, value in model.state_dict().items():
        if name in recorded.objective:
            assert torch.equal(recorded.objective[name], value), name
    assert len(recorded.logs) == 1


def test_its_student_is_exported(old_run, tmp_path):
    model, path = old_run
    export_student(path, tmp_path / "student.pth")
    exported = torch.load(tmp_path / "student.pth")["state_dict"]
    for name, value in model.student.state_dict().items():
        assert torch.equal(exported[name], value), name


@pytest.mark.parametrize(
    "config, checkpoint",
    [
        ("gdetkd::digits/faster_rcnn_r18.py", "gdetkd::digits_gdetkd_faster_rcnn_r18.pth"),
        ("gdetkd::digits/faster_rcnn_r34_teacher.py", "gdetkd::digits_faster_rcnn_r34.pth"),
    ],
)
def test_the_shipped_detectors_load(config, checkpoint):
    assert not load_detector(config, checkpoint).training


def test_other_checkpoints_are_left_alone():
    for state in ({"student.a": 1, "backbone.b": 2}, {"backbone.a": 1}, {"distiller.student.a": 1}):
        assert not is_old(state)
        checkpoint = {"state_dict": dict(state)}
        rename_old_keys(checkpoint)
        assert checkpoint == {"state_dict": state}
    averaged = {"module.student.a": torch.zeros(1), "steps": torch.zeros(1)}
    checkpoint = {"ema_state_dict": averaged}
    rename_old_keys(checkpoint)
    assert list(checkpoint["ema_state_dict"]) == ["module.distiller.student.a", "steps"]
