"""`gdetkd train --plan`: what a training would need, said without training or writing anything."""

import re

import pytest
import torch
from click.testing import CliRunner
from helpers import build, distilled, faster_rcnn, run_config
from mmengine.config import ConfigDict

from gdetkd.cli import cli
from gdetkd.detectors.mmdet.folding import fold_batch_norms
from gdetkd.launch import plan
from gdetkd.launch.plan import build_with_random_teacher, measure_step

TEACHER = dict(config=faster_rcnn(base=6, channels=12, fc=24), checkpoint="http://nowhere/t.pth")


@pytest.fixture(scope="module")
def planned(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    config = run_config(distilled(faster_rcnn(), TEACHER), digits, folder / "work", steps=5)
    config.dump(str(folder / "config.py"))
    arguments = ["train", str(folder / "config.py"), "--plan"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder, done.output


def test_a_plan_writes_nothing_and_fetches_no_teacher(planned):
    folder, _ = planned
    assert [path.name for path in folder.iterdir()] == ["config.py"]


def test_memory_is_the_sum_of_its_parts(planned):
    whole, *parts = map(float, re.findall(r"([\d.]+) MB", planned[1].split("Memory per process")[1]
                                          .split("(fp32")[0]))  # fmt: skip
    assert len(parts) == 4 and min(parts) > 0
    assert whole == pytest.approx(sum(parts), abs=0.3)  # each is rounded to a tenth


def test_it_counts_the_images_and_the_steps(planned):
    assert "Data: 16 images in" in planned[1]
    assert "; 5 steps, " in planned[1] and "2 per step and process, 1 process(es)" in planned[1]


def test_the_teacher_gets_weights_of_its_shapes(tmp_path):
    config = ConfigDict(distilled(faster_rcnn(), TEACHER))
    model = build_with_random_teacher(config, tmp_path)
    same = build(TEACHER["config"]).eval()
    fold_batch_norms(same, same.extract_feat)
    shapes = {name: value.shape for name, value in same.state_dict().items()}
    assert {name: value.shape for name, value in model.teacher.state_dict().items()} == shapes


def test_a_larger_image_keeps_more_for_the_backward_pass():
    """Twice the side, measured both times: activations of the layers are four times as many."""
    small, large = (measure_step(build(faster_rcnn()), 1, (side, side)) for side in (128, 256))
    assert 3 < large.activations / small.activations < 5
    assert torch.tensor([small.seconds, large.seconds]).min() > 0
    assert small.measured and large.measured
    assert large.activations * 3 == pytest.approx(
        measure_step(build(faster_rcnn()), 3, (256, 256)).activations, rel=0.2
    )


def test_an_image_that_does_not_fit_is_scaled_from_a_smaller_one(monkeypatch):
    measured = measure_step(build(faster_rcnn()), 2, (256, 256))
    monkeypatch.setattr(plan, "_free_memory", lambda: 1)
    scaled = measure_step(build(faster_rcnn()), 2, (256, 256))
    assert measured.measured and not scaled.measured
    assert "too much time or memory" in plan.how(scaled)
    assert scaled.activations == pytest.approx(measured.activations, rel=0.3)
