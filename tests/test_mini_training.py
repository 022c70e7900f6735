"""Short trainings repeat with their seed, and the detector can be inspected between steps."""

import pytest
import torch
from helpers import distilled, faster_rcnn, save_detector
from mmengine.config import Config

from gdetkd.evaluation.images import val_images
from gdetkd.lessons.mini_training import build_training, fit_projection, training_steps


@pytest.fixture(scope="module")
def images():
    return val_images(3, split="train")


@pytest.fixture
def config(tmp_path, teacher):
    only = dict(contrastive=dict(weight=1.0, dim=8, queue_capacity=16))
    Config(dict(model=distilled(faster_rcnn(), teacher, only))).dump(tmp_path / "config.py")
    return str(tmp_path / "config.py")


def losses(config, images, seed=0):
    detector = build_training(config, seed=seed)
    return list(training_steps(detector, images, 3, 1e-3, batch=2, seed=seed))


def test_steps_are_those_of_their_seed(config, images):
    first = losses(config, images)
    assert len(first) == 3 and first[0]["kd_contrastive_loss"] > 0
    assert losses(config, images) == first
    assert losses(config, images, seed=1) != first


def test_the_detector_learns_between_the_steps(config, images):
    detector = build_training(config)
    weights = []
    for _ in training_steps(detector, images, 2, 1e-3, batch=2):
        weights.append(detector.student.roi_head.bbox_head.fc_cls.weight.detach().clone())
    assert not torch.equal(*weights)


def test_a_training_starts_from_given_weights(config, tmp_path):
    save_detector(faster_rcnn(), tmp_path / "student.pth", seed=7)
    detector = build_training(config, student=str(tmp_path / "student.pth"))
    saved = torch.load(tmp_path / "student.pth")["state_dict"]
    assert all(torch.equal(v, saved[k]) for k, v in detector.student.state_dict().items())
    save_detector(faster_rcnn(fc=24), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="do not fit"):
        build_training(config, student=str(tmp_path / "other.pth"))


def test_a_projection_is_fitted_and_nothing_else():
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 8, 4, generator=random)
    projection = torch.nn.Linear(4, 3)

    def apart(a, b):
        return (a - b).square().mean()

    values = list(fit_projection(projection, student, teacher, apart, 30, learning_rate=0.1))
    assert len(values) == 30 and values[-1] < 0.1 * values[0]
