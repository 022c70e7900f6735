"""A training reads what its teacher computed before, and comes out the same."""

import pytest
import torch
from helpers import distilled, faster_rcnn, run_config
from kill_and_resume import differences

from gdetkd.detectors.mmdet.pyramid_cache import PyramidCache
from gdetkd.training import teacher_cache
from gdetkd.training.runner import train
from gdetkd.training.teacher_cache import FOLDER, variants

ONLY = dict(imitation=dict(weight=1.0))
FLIP, CROP = dict(type="RandomFlip", prob=0.5), dict(type="RandomCrop", crop_size=(56, 56))
READ = dict(type="LoadImageFromFile")


@pytest.mark.parametrize(
    ("steps", "number"),
    [([READ], 1), ([READ, FLIP], 2), ([dict(FLIP, direction=["horizontal", "vertical"])], 3),
     ([READ, dict(type="Resize", scale=(64, 64)), FLIP], 2), ([READ, CROP, FLIP], 0),
     ([dict(type="RandomChoiceResize", scales=[(64, 64), (32, 32)])], 0)],
)  # fmt: skip
def test_a_pipeline_shows_an_image_in_so_many_ways(steps, number):
    assert variants(steps) == number


@pytest.fixture
def caches(monkeypatch):
    """The caches that trainings make."""
    made = []

    class Seen(PyramidCache):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(teacher_cache, "PyramidCache", Seen)
    return made


def weights(teacher, digits, folder, steps=24, **changes):
    """The student's after steps of 4 of 8 images that are flipped or not."""
    config = run_config(distilled(faster_rcnn(), teacher, ONLY), digits, folder, steps, **changes)
    loader = config.train_dataloader
    loader.update(batch_size=4)
    loader.dataset.update(indices=8)
    loader.dataset.pipeline.insert(3, FLIP)
    return train(config).model.student.state_dict()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for trainings on a CPU")
def test_a_training_comes_out_the_same(teacher, digits, tmp_path, caches, monkeypatch):
    kept = weights(teacher, digits, tmp_path / "kept")
    (cache,) = caches
    assert cache.hits >= 8 and cache.hits + cache.misses == 24 * 4
    assert not (tmp_path / "kept" / FOLDER).exists()
    monkeypatch.setattr(teacher_cache, "MEGABYTES", 1e-3)  # no room for all of them
    without = weights(teacher, digits, tmp_path / "without")
    assert caches[1].hits == 0 and not differences(kept, without)


@pytest.mark.parametrize("steps", [4, 24])
def test_nothing_is_kept_where_nothing_is_gained(teacher, digits, tmp_path, caches, steps):
    cropped = [] if steps == 4 else [CROP]  # a pass or two, or images without end
    config = run_config(distilled(faster_rcnn(), teacher, ONLY), digits, tmp_path, steps)
    config.train_dataloader.dataset.pipeline[3:3] = cropped
    train(config)
    assert not caches and not (tmp_path / FOLDER).exists()
