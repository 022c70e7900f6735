"""The worked example of gdetkd/detectors/README.md: torchvision's Faster R-CNN."""

import re
from pathlib import Path

import pytest
import torch
from helpers import (
    COMPONENTS,
    backward,
    batch,
    build,
    distilled,
    faster_rcnn,
    losses_of,
    save_detector,
    views_of,
)
from torchvision_family import TorchvisionAdapter, TorchvisionFasterRCNN
from twins import OFF, alone, assert_gradients_reach_everything, falls

import gdetkd
from gdetkd.detectors.adapter import ADAPTERS

STUDENT = dict(
    type="TorchvisionFasterRCNN",
    classes=10,
    data_preprocessor=faster_rcnn()["data_preprocessor"],
)
WIDER = dict(STUDENT, channels=24, fc=48)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The example is there for this file alone."""
    yield
    ADAPTERS.remove(TorchvisionAdapter)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return save_detector(WIDER, tmp_path_factory.mktemp("torchvision") / "teacher.pth")


def test_the_page_shows_the_code_that_is_tested():
    page = (Path(gdetkd.__file__).parent / "detectors" / "README.md").read_text()
    code = Path(__file__).with_name("torchvision_family.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    blocks = [b for b in blocks if not b.startswith("backbone =")]  # timm, in a config
    assert len(blocks) == 4
    for block in blocks:
        assert block in code


def test_the_page_lists_every_adapter():
    folder = Path(gdetkd.__file__).parent / "detectors"
    page = (folder / "README.md").read_text()
    ours = [a.__module__ for a in ADAPTERS if a.__module__.startswith("gdetkd.")]
    files = {"/".join(module.split(".")[-2:]) for module in ours}
    assert {"mmdet/two_stage", "mmdet/dense", "mmdet/detr"} <= files
    missing = [name for name in files - {"mmdet/refused"} if f"`{name}.py`" not in page]
    assert not missing


def test_without_weights_it_is_the_plain_detector():
    plain = build(STUDENT)
    nowhere = dict(config="nowhere.py", checkpoint="nowhere.pth")
    model = build(distilled(STUDENT, nowhere, OFF))
    theirs, ours = backward(plain, losses_of(plain, batch())), None
    ours = backward(model, losses_of(model, batch()))
    for name, grad in theirs.items():
        assert torch.equal(ours[f"distiller.student.{name}"], grad), name


def test_the_students_view_is_what_fed_its_loss(given):
    model = build(distilled(STUDENT, given))
    student, teacher, _ = views_of(model, batch())
    head = model.student.model.roi_heads
    logits, deltas = head.box_predictor(student.representation)
    assert torch.equal(student.logits, logits.roll(-1, 1))
    assert student.deltas.shape == (len(student.rois), 10, 4)
    stds = torch.tensor([0.1, 0.1, 0.2, 0.2])
    torch.testing.assert_close(student.deltas / stds, deltas.view(-1, 11, 4)[:, 1:])
    boxes = [student.rois[student.rois[:, 0] == i, 1:] for i in range(2)]
    levels = dict(zip("0123", student.pyramid, strict=True))
    assert torch.equal(head.box_roi_pool(levels, boxes, [(64, 64)] * 2), student.pooled)
    assert torch.equal(teacher.rois, student.rois)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_weight_by_share_of_the_gradient_is_found(given):
    model = build(distilled(STUDENT, given, dict(imitation=dict(weight="auto"))))
    assert losses_of(model, batch())["kd_imitation_weight"] > 0


def test_the_teachers_view_is_what_its_head_makes_of_the_boxes(given):
    model = build(distilled(faster_rcnn(), given))
    student, view, _ = views_of(model, batch())
    head = model.teacher.model.roi_heads
    with torch.no_grad():
        logits, _ = head.box_predictor(head.box_head(view.pooled))
    assert torch.equal(view.logits, logits.roll(-1, 1))
    assert torch.equal(view.rois, student.rois) and not view.logits.requires_grad


@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_it_pairs_with_other_families(given, teacher, side):
    student = faster_rcnn() if side == "teacher" else STUDENT
    model = build(distilled(student, teacher if side == "student" else given))
    assert isinstance(model.student, TorchvisionFasterRCNN) == (side != "teacher")
    assert_gradients_reach_everything(model)


@pytest.mark.parametrize("name", COMPONENTS)
def test_each_component_falls(given, name):
    model = build(distilled(STUDENT, given, {name: alone(name)}))
    ((start, end),) = falls(model, steps=8).values()
    assert end < start


def test_heads_are_transferred(tmp_path):
    twin = save_detector(STUDENT, tmp_path / "twin.pth")
    model = build(distilled(STUDENT, twin, {}, transfer_heads=True))
    for name, value in model.student.model.roi_heads.state_dict().items():
        assert torch.equal(value, model.teacher.model.roi_heads.state_dict()[name]), name
