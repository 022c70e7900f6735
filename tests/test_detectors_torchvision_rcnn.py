"""torchvision's Faster R-CNN as student and teacher, by `Distiller`, without MMDetection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_torchvision import CLASSES, COMPONENTS, batch, detector, losses_of, total
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from gdetkd import Distiller
from gdetkd.detectors import adapter_for


def test_the_students_own_losses_are_untouched():
    plain, student = detector(), detector()
    distiller = Distiller(student, detector(24, 48, seed=1), COMPONENTS)
    expected, found = losses_of(plain), losses_of(distiller)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert {f"kd_{name}_loss" for name in COMPONENTS} < set(found)
    assert not any(module._forward_hooks for module in student.modules())


def test_without_weights_no_teacher_is_built():
    def refuse():
        raise AssertionError("built a teacher that nothing asks for")

    distiller = Distiller(detector(), refuse, dict(imitation=dict(weight=0)))
    assert distiller.teacher is None and distiller.objective is None
    expected, found = losses_of(detector()), losses_of(distiller)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_outputs_are_what_fed_the_loss():
    student = detector()
    adapter = adapter_for(student, "student")
    torch.manual_seed(0)
    own = adapter.training_pass(*batch())
    (outputs,) = own.outputs
    (spec,) = adapter.specs()
    head = student.roi_heads
    logits, deltas = head.box_predictor(outputs.representation)
    assert torch.equal(outputs.logits, torch.cat([logits[:, 1:], logits[:, :1]], 1))
    stds = torch.tensor([0.1, 0.1, 0.2, 0.2])
    torch.testing.assert_close(outputs.deltas / stds, deltas.view(-1, CLASSES + 1, 4)[:, 1:])
    levels = dict(zip("0123", outputs.pyramid, strict=True))
    boxes = [outputs.rois[outputs.rois[:, 0] == index, 1:] for index in range(2)]
    assert torch.equal(head.box_roi_pool(levels, boxes, own.sizes), outputs.pooled)
    assert spec.strides == (4, 8, 16, 32) and spec.num_classes == CLASSES
    # The ground truth, first among each image's boxes of its class, keeps its class.
    truth = torch.cat([target["labels"] - 1 for target in batch()[1]])
    assert set(outputs.labels.tolist()) <= {*truth.tolist(), CLASSES}
    assert len(outputs.gt_boxes) == 6 and outputs.gt_boxes[:, 1:].max() <= 96


def test_the_teacher_answers_for_given_boxes():
    teacher = detector().eval()
    adapter = adapter_for(teacher, "teacher")
    images = torch.rand(2, 3, 64, 64)
    rois = torch.tensor([[0, 4, 4, 30, 30], [0, 10, 2, 60, 50], [1, 0, 0, 20, 40.0]])
    (outputs,) = adapter.forward_rois(images, [rois], [0])
    features = teacher.backbone(images)
    boxes = [rois[:2, 1:], rois[2:, 1:]]
    pooled = teacher.roi_heads.box_roi_pool(features, boxes, [(64, 64)] * 2)
    assert torch.equal(outputs.pooled, pooled) and torch.equal(outputs.rois, rois)
    logits, _ = teacher.roi_heads.box_predictor(teacher.roi_heads.box_head(pooled))
    assert torch.equal(outputs.logits.softmax(1)[:, -1], logits.softmax(1)[:, 0])


def test_each_component_alone_falls():
    for name, settings in COMPONENTS.items():
        distiller = Distiller(detector(), detector(24, 48, seed=1), {name: settings})
        optimizer = torch.optim.Adam(
            distiller.parameters(), lr=5e-4
        )  # the proposals move along with the backbone
        values = []
        for _ in range(10):
            loss = losses_of(distiller)[f"kd_{name}_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert sum(values[-3:]) / 3 < values[0], name


def test_heads_are_transferred_and_frozen():
    student, teacher = detector(), detector(seed=1)
    distiller = Distiller(student, teacher, transfer_heads=True)
    distiller.transfer()
    for part in ("rpn", "roi_heads"):
        ours, theirs = getattr(student, part).state_dict(), getattr(teacher, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not any(p.requires_grad for p in student.rpn.parameters())
    total(losses_of(distiller.train())).backward()
    other = detector()
    other.rpn.anchor_generator = AnchorGenerator([[s] for s in (4, 8, 16, 32, 64)], [[1.0]] * 5)
    with pytest.raises(ValueError, match=r"rpn\.sizes is .* in the student"):
        Distiller(detector(), other, transfer_heads=True)


def test_mask_rcnn_learns_from_faster_rcnn():
    distiller = Distiller(detector(kind=MaskRCNN), detector(24, 48, seed=1), COMPONENTS)
    losses = losses_of(distiller, masks=True)
    assert "loss_mask" in losses and all(value.isfinite().all() for value in losses.values())


def test_the_student_leaves_alone():
    distiller = Distiller(detector(), detector(24, 48, seed=1), COMPONENTS)
    detector(seed=5).load_state_dict(distiller.student_state_dict())


def test_it_trains_where_mmdetection_is_not_installed():
    code = (
        "import sys\n"
        "for name in ('mmdet', 'mmengine', 'mmcv', 'pandas', 'cv2', 'pycocotools'):\n"
        "    sys.modules[name] = None\n"
        "import torch\n"
        "from gdetkd import Distiller\n"
        "from tiny_torchvision import COMPONENTS, detector, losses_of, total\n"
        "distiller = Distiller(detector(), detector(24, 48, seed=1), COMPONENTS)\n"
        "optimizer = torch.optim.AdamW(distiller.parameters())\n"
        "for step in range(2):\n"
        "    losses = losses_of(distiller, seed=step)\n"
        "    optimizer.zero_grad(); total(losses).backward(); optimizer.step()\n"
        "print(sorted(name for name in losses if name.startswith('kd_') and 'loss' in name))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kd_") == 4
