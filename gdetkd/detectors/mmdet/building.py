"""Building MMDetection's detectors with weights: the one way there is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from gdetkd.checkpoints.hub import find_checkpoint
from gdetkd.checkpoints.loading import load_strictly
from gdetkd.checkpoints.student import read_student
from gdetkd.detectors.mmdet.config_errors import config_errors, read_config


def load_detector(config: str | Mapping[str, Any], checkpoint: str) -> nn.Module:
    """Build a detector, load its weights strictly, freeze it and put it in eval mode.

    Nothing is fetched but the checkpoint: it has all the weights, so pretraining is left out.

    Args:
        config: A file, `gdetkd::NAME` or `mmdet::NAME`, or the model's dict; of a distilled
            detector the student is built.
        checkpoint: A file, `gdetkd::NAME.pth` (shipped) or a URL; of a distilled run the student.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: The weights do not fit the config.
    """
    where = find_checkpoint(checkpoint)
    state = read_student(where)
    settings = model_settings(config)
    name = config if isinstance(config, str) else "of the detector"
    with DefaultScope.overwrite_default_scope("mmdet"), config_errors(name):
        detector = MODELS.build(settings)
    load_strictly(detector, state, where)
    return detector.requires_grad_(False).eval()


def build_to_train(model: Mapping[str, Any], seed: int = 0) -> nn.Module:
    """Build a detector from a model's dict, initialized as a run of this seed would be."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope("mmdet"):
        detector = MODELS.build(copy.deepcopy(model))
        detector.init_weights()
    detector.train()  # that of MMDetection's own distillers returns nothing
    return detector


def model_settings(config: str | Mapping[str, Any]) -> ConfigDict:
    """The model of a config file, or the model itself; of a distilled detector the student.

    Without the backbone's pretrained weights, which building would look for.
    """
    if isinstance(config, str):
        loaded = plain_student(read_config(config))
        model = loaded.model
        if "data_preprocessor" in loaded:  # MMEngine hands it to a model that has none
            model.setdefault("data_preprocessor", loaded.data_preprocessor)
    else:
        model = Config(dict(model=copy.deepcopy(config))).model
    if model.get("backbone", {}).get("init_cfg") is not None:
        model.backbone.init_cfg = None
    return model


def plain_student(config: Config) -> Config:
    """A copy of the config with the student alone as its model."""
    config = copy.deepcopy(config)
    if is_type(config.model, "DistilledDetector"):
        config.model = ConfigDict(config.model.student)
        config.custom_hooks = [
            hook for hook in config.get("custom_hooks", []) if not is_type(hook, "DistillationHook")
        ]
    return config


def is_type(component: Mapping[str, Any], name: str) -> bool:
    return type_name(component) == name


def type_name(component: Mapping[str, Any]) -> str:
    """The type of a component's config: given as a name, with a scope or not, or as a class."""
    kind = component.get("type")
    return getattr(kind, "__name__", str(kind)).split(".")[-1]
