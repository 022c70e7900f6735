"""torchvision's detectors with a few channels, and batches of small images for them."""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

CLASSES = 4
COMPONENTS = dict(
    contrastive=dict(weight=0.5, dim=8, queue_capacity=40),
    imitation=dict(weight=1.0, sampling_ratio=2),
    classification=dict(weight=1.0),
    regression=dict(weight=1.0),
)
SIZES = (8, 16, 32, 64, 128)


class TinySSDBackbone(nn.Module):
    """Three levels of different widths, as SSD's are."""

    out_channels = (8, 12, 8)

    def __init__(self):
        super().__init__()
        widths = (16, *self.out_channels)
        self.stem = nn.Conv2d(3, 16, 5, stride=4, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b))
            for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, images):
        levels, x = {}, self.stem(images)
        for index, block in enumerate(self.blocks):
            x = levels[str(index)] = block(x)
        return levels


def fpn(channels):
    widths = (16, 16, 24, 32, 32)
    blocks = {
        f"layer{index + 1}": nn.Sequential(
            nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU()
        )
        for index, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
    }
    stem = dict(stem=nn.Conv2d(3, 16, 5, stride=2, padding=2))
    return BackboneWithFPN(
        nn.Sequential(OrderedDict(stem | blocks)),
        return_layers={f"layer{index + 1}": str(index) for index in range(4)},
        in_channels_list=list(widths[1:]),
        out_channels=channels,
    )


def ssd(lite=False):
    backbone = TinySSDBackbone()
    boxes = DefaultBoxGenerator([[2], [2, 3], [2]], scales=[0.1, 0.3, 0.6, 0.9])
    head = None
    if lite:
        per_cell = boxes.num_anchors_per_location()
        head = SSDLiteHead(list(backbone.out_channels), per_cell, CLASSES + 1, nn.BatchNorm2d)
    return SSD(backbone, boxes, (96, 96), CLASSES + 1, head=head)


def detector(channels=16, fc=32, kind=FasterRCNN, seed=0):
    """A detector of a class of torchvision's, or 'ssdlite', in training mode."""
    torch.manual_seed(seed)
    sizes = dict(min_size=64, max_size=96)
    if kind in (SSD, "ssdlite"):
        model = ssd(lite=kind == "ssdlite")
    elif kind is FCOS:
        model = FCOS(fpn(32), CLASSES + 1, **sizes)  # GroupNorm has 32 groups
    elif kind is RetinaNet:
        anchors = AnchorGenerator([[s, 1.4 * s] for s in SIZES], [[0.5, 1.0, 2.0]] * 5)
        model = RetinaNet(fpn(channels), CLASSES + 1, anchor_generator=anchors, **sizes)
    else:
        model = kind(
            fpn(channels),
            num_classes=CLASSES + 1,
            rpn_anchor_generator=AnchorGenerator([[s] for s in SIZES], [[1.0]] * 5),
            box_batch_size_per_image=16,
            **sizes,
        )
        head = model.roi_heads
        head.box_head = type(head.box_head)(channels * 49, fc)
        head.box_predictor = type(head.box_predictor)(fc, CLASSES + 1)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "head" in name:
            nn.init.kaiming_normal_(parameter)
    return model.train()


def batch(seed=0, masks=False):
    random = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for height, width in ((50, 64), (64, 40)):
        images.append(torch.rand(3, height, width, generator=random))
        corner = torch.rand(3, 2, generator=random) * 20
        side = torch.rand(3, 2, generator=random) * 15 + 5
        target = dict(
            boxes=torch.cat([corner, corner + side], 1),
            labels=torch.randint(1, CLASSES + 1, (3,), generator=random),
        )
        if masks:
            target["masks"] = torch.ones(3, height, width, dtype=torch.uint8)
        targets.append(target)
    return images, targets


def losses_of(model, seed=0, **settings):
    torch.manual_seed(seed)
    return model(*copy.deepcopy(batch(**settings)))


def total(losses):
    return sum(value for name, value in losses.items() if "loss" in name)
