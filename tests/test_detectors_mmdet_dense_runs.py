"""Runs of MMEngine's Runner with dense detectors, and the configs of digits."""

import pytest
import torch
from dense import dense
from helpers import COMPONENTS, distilled, run, run_config
from mmdet.registry import MODELS
from mmengine.config import Config

import gdetkd.detectors.mmdet  # noqa: F401  (registers DistilledDetector)
from gdetkd.checkpoints.hub import find_config

ZERO = {name: {**settings, "weight": 0.0} for name, settings in COMPONENTS.items()}


def equal(ours, theirs):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert value is ours[name] if value is None else torch.equal(value, ours[name]), name


@pytest.mark.parametrize("kind", ["RetinaNet", "FCOS in strides", "GFL", "ATSS"])
def test_with_all_weights_0_it_is_the_plain_detector_bit_for_bit(kind, digits, tmp_path):
    nowhere = dict(config="nowhere.py", checkpoint="nowhere.pth")
    _, theirs = run(run_config(dense(kind), digits, tmp_path / "plain"))
    runner, ours = run(run_config(distilled(dense(kind), nowhere, ZERO), digits, tmp_path / "ours"))
    assert runner.model.teacher is None and runner.model.distiller.objective is None
    assert ours.images == theirs.images and len(ours.images) == 3
    assert ours.logs == theirs.logs  # the numbers, all of them, exactly
    equal(ours.start, theirs.start)
    for mine, other in zip(
        ours.gradients + ours.weights, theirs.gradients + theirs.weights, strict=True
    ):
        equal(mine, other)
    assert any(grad.any() for grad in ours.gradients[2].values())


def test_a_distilled_run_starts_alike_and_resumes_its_drawing(digits, teacher, tmp_path):
    _, theirs = run(run_config(dense(), digits, tmp_path / "plain", steps=1))
    distill = {name: s for name, s in COMPONENTS.items() if name != "regression"}
    model = distilled(dense(), teacher, distill, student_adapter=dict(boxes_per_image=16))
    changes = dict(default_hooks__checkpoint=dict(interval=2, save_last=False))
    runner, whole = run(run_config(model, digits, tmp_path / "whole", steps=4, **changes))
    assert whole.images[0] == theirs.images[0]
    equal(
        {k: v for k, v in whole.start.items() if not k.startswith("distiller.sampling")},
        theirs.start,
    )
    for name, value in theirs.logs[0].items():
        assert name == "loss" or whole.logs[0][name] == value, name
    assert runner.model.distiller.sampling.steps == 4

    config = run_config(model, digits, tmp_path / "resumed", steps=4, **changes)
    config.load_from, config.resume = str(tmp_path / "whole" / "iter_2.pth"), True
    runner, resumed = run(config)
    assert runner.model.distiller.sampling.steps == 4
    assert [log["kd_contrastive_loss"] for log in resumed.logs] == [
        log["kd_contrastive_loss"] for log in whole.logs[2:]
    ]


@pytest.mark.parametrize("name", ["retinanet_r18", "fcos_r18"])
def test_the_configs_of_digits(name):
    plain = Config.fromfile(find_config(f"gdetkd::digits/{name}.py"))
    ours = Config.fromfile(find_config(f"gdetkd::digits/gdetkd_{name}.py"))
    assert ours.model.student == plain.model
    for part in ("optim_wrapper", "param_scheduler", "train_dataloader", "train_cfg"):
        assert ours[part] == plain[part]
    model = MODELS.build(ours.model)
    assert set(model.distiller.objective[0].components) == {"contrastive", "imitation"}
    (spec,) = model.distiller.student_adapter.specs()
    assert spec.strides == (4, 8, 16, 32, 64) and spec.representation_dim == 64
    assert model.distiller.teacher_adapter.specs()[0].representation_dim == 256
