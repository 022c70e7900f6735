"""torchvision's RetinaNet, FCOS, SSD and SSDlite as students and teachers."""

from __future__ import annotations

import pytest
import torch
from tiny_torchvision import CLASSES, COMPONENTS, batch, detector, losses_of, total
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import resize_boxes

from gdetkd import Distiller
from gdetkd.detectors import adapter_for
from gdetkd.detectors.sampling import matched_labels
from gdetkd.distillation.balance import gradient_norm, own_loss

KINDS = (RetinaNet, FCOS, SSD, "ssdlite")
WITHOUT_DELTAS = {name: COMPONENTS[name] for name in ("contrastive", "imitation", "classification")}
NAMES = dict(argvalues=KINDS, ids=lambda kind: getattr(kind, "__name__", kind))


def everything(model):
    """Have a detector's predict give all boxes that it has, in the order of the locations."""
    model.eval()
    model.score_thresh, model.nms_thresh = -1.0, 2.0
    model.topk_candidates = model.detections_per_img = 10**6
    return model


@pytest.mark.parametrize("kind", **NAMES)
def test_the_students_own_losses_are_untouched_and_everything_is_finite(kind):
    plain, student = detector(kind=kind), detector(kind=kind)
    distiller = Distiller(student, detector(24, 48, seed=1), WITHOUT_DELTAS)
    off = Distiller(detector(kind=kind), None, {})
    expected, found, without = losses_of(plain), losses_of(distiller), losses_of(off)
    assert set(without) == {f"loss_{name}" for name in expected} < set(found)
    for name, value in expected.items():
        for losses in (found, without):
            assert torch.equal(losses[f"loss_{name}"], value), name
    assert {f"kd_{name}_loss" for name in WITHOUT_DELTAS} < set(found)
    total(found).backward()
    for name, parameter in distiller.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    detector(kind=kind, seed=5).load_state_dict(distiller.student_state_dict(), strict=True)


@pytest.mark.parametrize("kind", [FasterRCNN, *KINDS], ids=str)
def test_the_own_losses_depend_on_the_pyramid(kind):
    """Else a weight by share of the gradient would never be found, and stay 0."""
    model = detector(kind=kind)
    own = adapter_for(model, "student").training_pass(*batch())
    assert gradient_norm(own_loss(own.losses), own.outputs[0].pyramid) > 0
    shares = {"imitation": dict(WITHOUT_DELTAS["imitation"], weight="50%")}
    distiller = Distiller(detector(kind=kind), detector(24, 48, seed=1), shares)
    assert losses_of(distiller)["kd_imitation_weight"] > 0


@pytest.mark.parametrize("kind", **NAMES)
def test_the_boxes_are_the_ones_that_the_detector_predicts(kind):
    model = detector(kind=kind)
    adapter = adapter_for(model, "student", boxes_per_image=200)
    images, targets = batch()
    with torch.no_grad():
        for module in model.modules():  # the same statistics when it predicts
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        own = adapter.training_pass(images, targets)
        predicted = everything(model)(images)
    (outputs,) = own.outputs
    for index, (image, found) in enumerate(zip(images, predicted, strict=True)):
        rois = outputs.rois[outputs.rois[:, 0] == index, 1:]
        height, width = own.sizes[index]
        assert rois.min() >= 0 and (rois[:, 2:] <= torch.tensor([width, height])).all()
        # Predictions are in pixels of the given image, rois in those of the resized one.
        back = resize_boxes(found["boxes"], image.shape[-2:], own.sizes[index])
        distance = (rois[:, None] - back).abs().amax(2).amin(1)
        assert distance.max() < 1e-4  # pixels, resized twice in float32
        truth = resize_boxes(targets[index]["boxes"], image.shape[-2:], own.sizes[index])
        labels = matched_labels(rois, truth, targets[index]["labels"] - 1, CLASSES)
        assert torch.equal(labels, outputs.labels[outputs.rois[:, 0] == index])


@pytest.mark.parametrize("kind", **NAMES)
def test_a_representation_is_what_its_logits_were_predicted_from(kind):
    """Of a 3 x 3 convolution the middle tap sees the cell itself: the others are set to zero."""
    model = detector(kind=kind)
    layers = adapter_for(model, "student").class_layers()
    for layer in layers:
        if layer.kernel_size == (3, 3):
            middle = layer.weight.data[:, :, 1:2, 1:2].clone()
            layer.weight.data.zero_()[:, :, 1:2, 1:2] = middle
    (outputs,) = adapter_for(model, "student").training_pass(*batch()).outputs
    found = torch.zeros(len(outputs.rois), dtype=torch.bool)
    for layer in layers:  # of one level and anchor at least
        weight = layer.weight.sum((2, 3))
        features = outputs.representation[:, : layer.in_channels]
        logits = (features @ weight.T + layer.bias).unflatten(1, (-1, CLASSES + 1))
        ours = logits[..., 1:] if kind in (RetinaNet, FCOS) else logits.roll(-1, dims=2)
        found |= (ours - outputs.logits[:, None]).abs().amax(2).amin(1) < 1e-4
    assert found.all() and len(found) > 50


@pytest.mark.parametrize("kind", **NAMES)
def test_a_teacher_scores_the_box_it_predicts_there(kind):
    """For the center of a level's cell and the side of its boxes: that cell's logits."""
    teacher = detector(kind=kind).eval()
    adapter = adapter_for(teacher, "teacher")
    (spec,) = adapter.specs()
    sides = adapter._levels[2]
    images = torch.rand(2, 3, 96, 96)
    places = [(0, 5, 3), (1, 1, 2), (2, 1, 0)]  # level, column, row
    rois = []
    for level, column, row in places:
        x, y = ((value + 0.5) * spec.strides[level] for value in (column, row))
        half = sides[level] / 2
        rois.append([1, x - half, y - half, x + half, y + half])
    (outputs,) = adapter.forward_rois(images, [torch.tensor(rois)], [0])
    with torch.no_grad():
        levels = list(teacher.backbone(images).values())
        scores = teacher.head(levels)["cls_logits"]
    per_cell = teacher.anchor_generator.num_anchors_per_location()
    start = 0
    for index, (level, anchors) in enumerate(zip(levels[:3], per_cell, strict=False)):
        _, column, row = places[index]
        first = start + (row * level.shape[3] + column) * anchors
        here = scores[1, first : first + anchors]
        best = here[here[:, 1:].amax(1).argmax()]
        expected = best[1:] if spec.scores == "sigmoid" else best.roll(-1)
        assert torch.equal(outputs.logits[index], expected)
        start += level.shape[2] * level.shape[3] * anchors
    assert outputs.representation.shape == (3, spec.representation_dim)
    assert outputs.pooled.shape == (3, spec.channels, *spec.pooled_size)


@pytest.mark.parametrize("kind", **NAMES)
def test_each_component_alone_falls(kind):
    for name, settings in WITHOUT_DELTAS.items():
        alone = {key: value for key, value in settings.items() if key != "queue_capacity"}
        student = detector(kind=kind)
        distiller = Distiller(
            student,
            detector(24, 48, seed=1),
            {name: alone},
            student_adapter=dict(boxes_per_image=64),
        )
        optimizer, values = torch.optim.Adam(distiller.parameters(), lr=2e-3), []
        for _ in range(7):
            distiller.undo()  # the same draws of boxes
            loss = losses_of(distiller)[f"kd_{name}_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert sum(values[-3:]) / 3 < values[0], (name, values)


@pytest.mark.parametrize("teacher", **NAMES)
@pytest.mark.parametrize("student", [FasterRCNN, RetinaNet, SSD])
def test_they_teach_each_other(student, teacher):
    distiller = Distiller(detector(kind=student), detector(kind=teacher, seed=1), WITHOUT_DELTAS)
    losses = losses_of(distiller)
    assert all(value.isfinite().all() for value in losses.values())
    assert all(losses[f"kd_{name}_loss"] > 0 for name in WITHOUT_DELTAS)


def test_regression_and_labels_from_0_are_refused():
    with pytest.raises(ValueError, match="regression: expected deltas relative to the shared"):
        Distiller(detector(kind=RetinaNet), detector(), dict(regression=dict(weight=1)))
    distiller = Distiller(detector(kind=RetinaNet), detector(), WITHOUT_DELTAS)
    images, targets = batch()
    targets[0]["labels"][0] = 0
    with pytest.raises(ValueError, match="expected labels from 1, .* got a label 0; add 1"):
        distiller(images, targets)


def test_heads_are_transferred_between_equals():
    student, teacher = detector(kind=RetinaNet), detector(kind=RetinaNet, seed=1)
    Distiller(student, teacher, transfer_heads=True).transfer()
    for name, value in teacher.head.state_dict().items():
        assert torch.equal(student.head.state_dict()[name], value)
