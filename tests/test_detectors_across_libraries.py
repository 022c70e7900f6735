"""Pairs of detectors of different libraries: the losses of a pair within one, every combination."""

from __future__ import annotations

import copy

import pytest
import torch
from dense import dense
from helpers import COMPONENTS, build, changed, faster_rcnn
from helpers import batch as mmdet_batch
from tiny_torchvision import CLASSES, batch, detector
from tiny_transformers import detr, plain_batch
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet

from gdetkd import Distiller
from gdetkd.detectors import adapter_for

SIZES = ((64, 64), (50, 64))
WIDTH, FC = 16, 32
LEVELS = range(4)

# --- The same Faster R-CNN ResNet-18 in two libraries --------------------------------------------


def of_mmdetection(seed=1):
    """As torchvision has it: RoIAlign without its half cell, levels by 56 px; no dead weights."""
    config = changed(
        faster_rcnn(base=64, channels=WIDTH, fc=FC, classes=CLASSES),
        roi_head__bbox_roi_extractor__finest_scale=56,
        roi_head__bbox_roi_extractor__roi_layer__aligned=False,
    )
    model = build(config, seed)
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "roi_head" in name:
            torch.nn.init.kaiming_normal_(parameter, generator=random)
    return model.eval()


def in_torchvision(source):
    """torchvision's detector with the weights of MMDetection's."""
    backbone = BackboneWithFPN(
        ResNet(BasicBlock, [2, 2, 2, 2]),
        return_layers={f"layer{i + 1}": str(i) for i in LEVELS},
        in_channels_list=[64, 128, 256, 512],
        out_channels=WIDTH,
    )
    anchors = AnchorGenerator([[s] for s in (16, 32, 64, 128, 256)], [[1.0]] * 5)
    model = FasterRCNN(backbone, CLASSES + 1, rpn_anchor_generator=anchors, min_size=64)
    head, given = model.roi_heads, source.state_dict()
    head.box_head = type(head.box_head)(WIDTH * 49, FC)
    head.box_predictor = type(head.box_predictor)(FC, CLASSES + 1)
    state = model.state_dict()
    for key in state:
        if key.startswith("backbone.body."):
            state[key] = given[key.replace("backbone.body.", "backbone.")]
    for index in LEVELS:
        for ours, theirs in (("inner_blocks", "lateral_convs"), ("layer_blocks", "fpn_convs")):
            for part in ("weight", "bias"):
                value = given[f"neck.{theirs}.{index}.conv.{part}"]
                state[f"backbone.fpn.{ours}.{index}.0.{part}"] = value
    mmdet, own = "roi_head.bbox_head.", "roi_heads."
    for part in ("weight", "bias"):
        for index, name in enumerate(("fc6", "fc7")):
            state[f"{own}box_head.{name}.{part}"] = given[f"{mmdet}shared_fcs.{index}.{part}"]
        scores, boxes = (given[f"{mmdet}{name}.{part}"] for name in ("fc_cls", "fc_reg"))
        state[f"{own}box_predictor.cls_score.{part}"] = scores.roll(1, 0)  # the background first
        state[f"{own}box_predictor.bbox_pred.{part}"] = torch.cat(
            [torch.zeros(4, *boxes.shape[1:]), boxes]
        )
    model.load_state_dict(state, strict=True)
    return model.eval()


def mmdet_student():
    """MMDetection's tiny Faster R-CNN, its images and its samples."""
    model = build(faster_rcnn(classes=CLASSES))
    return model, lambda: mmdet_images(model)


def mmdet_images(model):
    data = mmdet_batch(sizes=SIZES)
    for sample in data["data_samples"]:
        sample.gt_instances.labels %= CLASSES
    data = model.data_preprocessor(data, True)
    return data["inputs"], data["data_samples"]


@pytest.mark.parametrize(
    "student", [mmdet_student, lambda: (detector(), batch)], ids=["mmdet", "torchvision"]
)
def test_a_pair_across_libraries_has_the_losses_of_the_pair_within_one(student):
    teacher, found = of_mmdetection(), []
    for given in (teacher, in_torchvision(teacher)):
        model, data = student()
        distiller = Distiller(model, given, COMPONENTS)
        images, targets = copy.deepcopy(data())
        torch.manual_seed(0)
        found.append(distiller(images, targets))
    within, across = found
    names = [name for name in within if name.startswith("kd_") and "loss" in name]
    assert len(names) == len(COMPONENTS)
    for name in names:
        assert within[name] > 0
        torch.testing.assert_close(across[name], within[name], rtol=1e-5, atol=0)


def test_the_same_detector_says_the_same_of_given_boxes():
    source = of_mmdetection()
    images = torch.randn(2, 3, 64, 64)
    rois = torch.tensor([[0, 4, 4, 30, 30], [0, 10, 2, 60, 50], [1, 0, 0, 20, 40.0]])
    specs, outputs = [], []
    for model in (source, in_torchvision(source)):
        adapter = adapter_for(model, "teacher")
        specs.append(adapter.specs()[0])
        with torch.no_grad():
            outputs.extend(adapter.forward_rois(images, [rois], [0]))
    for name in ("num_classes", "channels", "strides", "pooled_size", "representation_dim"):
        assert getattr(specs[0], name) == getattr(specs[1], name), name
    torch.testing.assert_close(*(torch.tensor(spec.delta_stds) for spec in specs))
    for name in ("pooled", "representation", "logits", "deltas"):
        values = [getattr(each, name) for each in outputs]
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5)


# --- Every combination ---------------------------------------------------------------------------

FAMILIES = {
    "mmdet Faster R-CNN": lambda seed: build(faster_rcnn(classes=CLASSES), seed),
    "mmdet RetinaNet": lambda seed: build(dense(classes=CLASSES), seed),
    "torchvision Faster R-CNN": lambda seed: detector(seed=seed),
    "torchvision RetinaNet": lambda seed: detector(kind=RetinaNet, seed=seed),
    "transformers RT-DETR": lambda seed: detr("rt_detr", seed),
    "transformers DETR": lambda seed: detr("detr", seed),
}


def data_of(name, model):
    if name.startswith("mmdet"):
        return mmdet_images(model)
    return batch() if name.startswith("torchvision") else plain_batch()


@pytest.mark.parametrize("student", FAMILIES)
def test_every_library_teaches_every_other(student):
    for teacher in FAMILIES:
        names = ["contrastive", "imitation", "classification"]
        if "Faster" in student and "Faster" in teacher:
            names.append("regression")
        model = FAMILIES[student](0)
        components = {name: COMPONENTS[name] for name in names}
        distiller = Distiller(model, FAMILIES[teacher](1), components).train()
        before = {name: value.clone() for name, value in distiller.student_state_dict().items()}
        optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-4)
        for _ in range(2):
            losses = distiller(*data_of(student, model))
            total = sum(
                value if isinstance(value, torch.Tensor) else sum(value)
                for name, value in losses.items()
                if "loss" in name
            )
            assert total.isfinite(), (student, teacher)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert {f"kd_{name}_loss" for name in names} <= set(losses)
        after = distiller.student_state_dict()
        assert any(not torch.equal(after[name], before[name]) for name in before)
        FAMILIES[student](5).load_state_dict(after, strict=True)
