"""What notebooks start from: the benchmark's own pictures, whole detectors, boxes that fit."""

import cv2
import numpy as np
import pytest
import torch
from helpers import faster_rcnn, save_detector
from mmengine.config import Config

from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.evaluation.images import val_images
from gdetkd.evaluation.rois import (
    best_of_each_object,
    forward_rois,
    jittered_truth,
    match_truth,
    rpn_proposals,
    spec_of,
)


@pytest.fixture(scope="module")
def images():
    return val_images(3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Config file and checkpoint of a tiny detector."""
    folder = tmp_path_factory.mktemp("detector")
    config = faster_rcnn()
    save_detector(config, folder / "tiny.pth")
    Config(dict(model=config)).dump(folder / "tiny.py")
    return str(folder / "tiny.py"), str(folder / "tiny.pth")


def test_images_are_those_of_the_data_set(digits):
    images = val_images(4, start=2)
    for index, picture in enumerate(images.pictures, start=2):
        on_disk = cv2.imread(str(digits / "val" / f"{index:06d}.jpg"))
        assert np.array_equal(picture, on_disk[..., ::-1])


def test_truth_lists_every_object_of_every_image(images):
    rois, labels = images.truth()
    assert len(rois) == len(labels) == sum(len(s.gt_instances) for s in images.samples)
    assert rois[:, 0].unique().tolist() == [0, 1, 2]
    assert torch.equal(rois[rois[:, 0] == 1, 1:], images.samples[1].gt_instances.bboxes)


def test_the_best_box_of_an_object_is_its_own(images):
    rois, _ = images.truth()
    moved = jittered_truth(images, copies=3, seed=1)
    best = best_of_each_object(torch.cat([moved, rois]), images)
    assert torch.equal(best, torch.arange(len(rois)) + len(moved))
    assert len(best_of_each_object(rois[1:], images)) == len(rois) - 1


@pytest.mark.parametrize("count, start, split", [(0, 0, "val"), (2, 499, "val"), (1, 0, "else")])
def test_images_that_are_not_there_are_refused(count, start, split):
    with pytest.raises(ValueError, match="expected images within"):
        val_images(count, start, split)


def test_boxes_without_jitter_show_their_objects(images):
    rois, labels = images.truth()
    still = jittered_truth(images, copies=2, amount=0.0)
    shown, which = match_truth(still, images)
    assert torch.equal(still, rois.repeat_interleave(2, 0))
    assert torch.equal(shown, labels.repeat_interleave(2))
    assert torch.equal(which, torch.arange(len(rois)).repeat_interleave(2))


def test_a_box_beside_all_objects_is_background(images):
    shown, which = match_truth(torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]]), images)
    assert (shown.item(), which.item()) == (10, -1)


def test_an_object_of_another_image_does_not_count(images):
    rois, _ = images.truth()
    rois[:, 0] = (rois[:, 0] + 1) % 3
    _, which = match_truth(rois, images)
    image = images.truth()[0][:, 0]
    assert all(w < 0 or image[w] == rois[i, 0] for i, w in enumerate(which.tolist()))


def test_a_loaded_detector_is_frozen_and_predicts(images, saved):
    detector = load_detector(*saved)
    assert not detector.training and not any(p.requires_grad for p in detector.parameters())
    rois = rpn_proposals(detector, images, per_image=7)
    assert rois.shape[1] == 5 and torch.bincount(rois[:, 0].long()).max() <= 7
    view = forward_rois(detector, images, rois)
    assert torch.equal(view.rois, rois)
    assert len(view.representation) == len(view.logits) == len(rois)
    assert view.representation.shape[1] == spec_of(detector).representation_dim
    # The same boxes in another order look the same: each row belongs to its box.
    other = forward_rois(detector, images, rois.flip(0))
    torch.testing.assert_close(other.logits, view.logits.flip(0), rtol=1e-4, atol=1e-5)


def test_weights_of_another_detector_are_refused(saved, tmp_path):
    save_detector(faster_rcnn(fc=24), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="do not fit the config"):
        load_detector(saved[0], str(tmp_path / "other.pth"))
