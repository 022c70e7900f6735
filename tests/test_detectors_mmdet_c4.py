"""Faster R-CNN C4: one level, boxes pooled before res5, its mean as the representation."""

import copy

import pytest
import torch
from helpers import COMPONENTS, batch, build, distilled, save_detector, views_of
from twins import (
    alone,
    assert_exports_and_resumes,
    assert_gradients_reach_everything,
    assert_plain_without_weights,
    assert_view_of_head,
    falls,
    heard_by,
    save_measured,
)

from gdetkd.reproduce.tiny_models import tiny_model

C4 = tiny_model("faster_rcnn_c4", base=16)
FPN = tiny_model("faster_rcnn")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A C4 teacher twice as wide as the student."""
    folder = tmp_path_factory.mktemp("wide")
    return save_measured(tiny_model("faster_rcnn_c4", base=32), folder / "teacher.pth")


def test_without_weights_it_is_the_plain_detector_bit_for_bit(digits, tmp_path):
    assert_plain_without_weights(C4, digits, tmp_path)


def test_the_view_is_what_fed_the_loss(wide):
    model = build(distilled(C4, wide))
    (spec,) = model.distiller.student_adapter.specs()
    assert spec.strides == (16,) and spec.channels == 64 and spec.pooled_size == (8, 8)
    assert spec.representation_dim == 128
    head = model.student.roi_head
    (fed,) = [heard_by([head.bbox_head])]
    student, teacher, _ = views_of(model, batch())
    assert_view_of_head(student, fed[0], head.bbox_head)
    # Pooled before res5; the representation is the mean over res5's cells.
    assert len(student.pyramid) == 1
    pooled = head.bbox_roi_extractor(student.pyramid, student.rois)
    assert torch.equal(student.pooled, pooled)
    layer = copy.deepcopy(head.shared_head)  # BatchNorm in training: the same batch, same output
    torch.testing.assert_close(student.representation, layer(pooled).mean((2, 3)))
    # The teacher, twice as wide, of the same boxes.
    assert torch.equal(teacher.rois, student.rois)
    assert teacher.representation.shape[1] == 256 and teacher.pooled.shape[1] == 128
    with torch.no_grad():
        given = model.teacher.roi_head.shared_head(teacher.pooled).mean((2, 3))
    torch.testing.assert_close(teacher.representation, given)


def test_widths_that_differ_have_a_projection_each(wide):
    model = build(distilled(C4, wide))
    contrastive = model.distiller.objective[0].components["contrastive"]
    assert contrastive.student_projection.in_features == 128
    assert contrastive.teacher_projection.in_features == 256
    assert_gradients_reach_everything(model)


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_falls(wide, name):
    model = build(distilled(C4, wide, {name: alone(name)}))
    ((start, end),) = falls(model).values()
    assert end < 0.9 * start


@pytest.mark.parametrize("student, teacher", [("C4", "FPN"), ("FPN", "C4")])
def test_with_a_pyramid_on_the_other_side(student, teacher, wide, tmp_path):
    """One level imitates boxes of four, and four levels those of one."""
    given = wide if teacher == "C4" else save_detector(FPN, tmp_path / "teacher.pth")
    model = build(distilled(C4 if student == "C4" else FPN, given))
    student_adapter, teacher_view, _ = views_of(model, batch())
    assert len(student_adapter.pyramid) == (1 if student == "C4" else 4)
    assert len(teacher_view.pyramid) == (1 if teacher == "C4" else 4)
    assert_gradients_reach_everything(model)


def test_export_and_resume(wide, digits, tmp_path):
    assert_exports_and_resumes(distilled(C4, wide), digits, tmp_path)


def test_head_transfer_moves_res5_too(tmp_path):
    """Equal widths: RPN, res5 and box head are the teacher's, res5's statistics included."""
    twin = save_detector(C4, tmp_path / "twin.pth")
    model = build(distilled(C4, twin, {}, transfer_heads=True))
    theirs = model.teacher.roi_head.state_dict()
    for name, value in model.student.roi_head.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert any("shared_head" in name and "running_mean" in name for name in theirs)
    assert not any(p.requires_grad for p in model.student.roi_head.parameters())


def test_head_transfer_between_c4_and_fpn_is_refused(wide):
    with pytest.raises(ValueError, match=r"transfer_heads: rpn_head.* in the student and .*"):
        build(distilled(FPN, wide, {}, transfer_heads=True))
    with pytest.raises(ValueError, match=r"transfer_heads: rpn_head.* in the student and .*"):
        build(distilled(C4, wide, {}, transfer_heads=True))
