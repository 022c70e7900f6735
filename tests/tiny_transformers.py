"""DETRs of transformers with random weights, a few channels and queries, from their configs."""

from __future__ import annotations

import torch
from tiny_torchvision import CLASSES, batch
from transformers import AutoModelForObjectDetection

from gdetkd.reproduce.tiny_detrs import CONFIGS, QUERIES

__all__ = ["CONFIGS", "QUERIES", "detr", "plain_batch"]


def detr(kind="rt_detr", seed=0):
    """A model of a type, in training mode, with class scores and boxes that differ by query."""
    config = CONFIGS[kind]()
    config.num_labels = CLASSES
    torch.manual_seed(seed)
    model = AutoModelForObjectDetection.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and ("class" in name or "bbox" in name):
            torch.nn.init.xavier_normal_(parameter, gain=0.5)
    return model.train()


def plain_batch(seed=0):
    """As `tiny_torchvision.batch`, with labels from 0."""
    images, targets = batch(seed)
    return images, [dict(target, labels=target["labels"] - 1) for target in targets]
