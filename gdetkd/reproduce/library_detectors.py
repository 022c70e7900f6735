"""Families of torchvision and transformers for the trials: small, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, list_models

LIBRARIES = ("torchvision", "transformers")
CLASSES, KEYPOINTS, SIDE = 10, 17, 64
# At 64 px the smallest level of a DETR with strides up to 32 has 2 x 2 cells, too few for its batch
# normalization, and that of SSD300 has none.
LARGER = {"rt_detr": 128, "rt_detr_v2": 128, "d_fine": 128, "deimv2": 128, "ssd300_vgg16": 300}


def library_of(detector: nn.Module) -> str:
    """The library whose class a detector is: 'mmdet', 'torchvision' or 'transformers'."""
    return type(detector).__module__.split(".")[0]


def builders(library: str) -> Mapping[str, str]:
    """What a library lists, by its own name: torchvision's functions, transformers' classes."""
    if library == "torchvision":
        return {name: name for name in list_models(module=detection)}
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    return MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES


def families(library: str) -> list[dict[str, Any]]:
    """The detectors that a library lists, as `find_families` gives those of MMDetection."""
    return [
        dict(name=f"{library}/{name}", detector=kind, heads=[], folders=[])
        for name, kind in sorted(builders(library).items())
    ]


def build(name: str) -> tuple[nn.Module, int, int]:
    """A family's detector, the side of the images and its width.

    One of transformers for which there is no small config has no layers: it is to be refused.
    """
    library, _, family = name.partition("/")
    torch.manual_seed(1)
    if library == "torchvision":
        # Those of a fixed size resize the images themselves; the others do not here.
        sizes = {} if family.startswith("ssd") else dict(min_size=SIDE, max_size=SIDE)
        model = getattr(detection, family)(
            weights=None, weights_backbone=None, num_classes=CLASSES + 1, **sizes
        )
        return model.train(), LARGER.get(family, SIDE), _width(model)
    import transformers

    from gdetkd.reproduce.tiny_detrs import CONFIGS

    kind = getattr(transformers, builders(library)[family])
    small = CONFIGS.get(family.replace("-", "_"))
    if small is None:
        model = kind.__new__(kind)
        nn.Module.__init__(model)
        return model, SIDE, 0
    config = small()
    config.num_labels = CLASSES
    width = config.hidden_size if family == "dab-detr" else config.d_model
    return kind(config).train(), LARGER.get(family, SIDE), width


def _width(model: nn.Module) -> int:
    width = getattr(model.backbone, "out_channels", 0)
    return width if isinstance(width, int) else max(width)


def plain_batch(
    data: Mapping[str, Any], detector: nn.Module
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The images and targets of `family_trials.batch` as the detector's library takes them."""
    first = int(library_of(detector) == "torchvision")  # where its labels begin
    targets = []
    for sample in data["data_samples"]:
        truth = sample.gt_instances
        boxes = truth.bboxes.clone()
        target = dict(boxes=boxes, labels=truth.labels + first)
        if first:
            target["masks"] = torch.from_numpy(truth.masks.masks)
            corners = boxes.view(-1, 2, 2).repeat(1, KEYPOINTS, 1)[:, :KEYPOINTS]
            target["keypoints"] = torch.cat([corners, torch.ones_like(corners[..., :1])], 2)
        targets.append(target)
    return [image.flip(0) / 255 for image in data["inputs"]], targets
