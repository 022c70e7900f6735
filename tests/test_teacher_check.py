"""How good a teacher is: calibration by hand, and what is said of a weak one."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from gdetkd.detectors.mmdet.teacher_check import calibration_error, correct, verdict


def test_an_object_is_found_once_by_the_best_box_of_its_class():
    box = [0.0, 0.0, 10.0, 10.0]
    found = InstanceData(
        bboxes=torch.tensor([box, box, box, [50.0, 50.0, 60.0, 60.0]]),
        scores=torch.tensor([0.6, 0.9, 0.95, 0.3]),
        labels=torch.tensor([0, 0, 1, 0]),
    )
    truth = InstanceData(bboxes=torch.tensor([box]), labels=torch.tensor([0]))
    scores, hits = correct(DetDataSample(pred_instances=found, gt_instances=truth))
    assert scores.tolist() == pytest.approx([0.95, 0.9, 0.6, 0.3])
    assert hits.tolist() == [False, True, False, False]  # another class, found, twice, elsewhere
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    assert not correct(DetDataSample(pred_instances=found, gt_instances=nothing))[1].any()


def test_the_error_is_that_of_the_bins():
    """Two at 0.95, one correct: |1.9 - 1| = 0.9; two at 0.25, none: 0.5; 1.4 of four is 0.35."""
    scored = [
        (torch.tensor([0.95, 0.25]), torch.tensor([True, False])),
        (torch.tensor([0.95, 0.25]), torch.tensor([False, False])),
    ]
    assert calibration_error(scored) == pytest.approx(0.35)
    assert calibration_error([(torch.zeros(0), torch.zeros(0, dtype=torch.bool))]) == 0


@pytest.mark.parametrize(
    "ap, error, baseline, said",
    [
        (0.01, 0.0, None, "as good as dead"),
        (0.15, 0.0, None, "is weak"),
        (0.15, 0.0, 0.10, None),
        (0.30, 0.0, 0.31, "no better than the student trained alone (0.310)"),
        (0.30, 0.3, None, "off by 0.30 on average"),
        (0.30, 0.1, 0.20, None),
    ],
)
def test_what_is_said_of_a_teacher(ap, error, baseline, said):
    found = verdict({"coco/bbox_mAP": ap, "calibration_error": error}, baseline)
    assert found is None if said is None else said in found
