"""The losses of G-DetKD, in plain PyTorch: any detector can use them."""

from gdetkd.losses.classification import (
    converted_prediction_distillation,
    object_scores,
    prediction_distillation,
    sigmoid_prediction_distillation,
)
from gdetkd.losses.contrastive import contrastive_loss
from gdetkd.losses.imitation import level_weights, semantic_guided_imitation
from gdetkd.losses.regression import class_aware_regression, ground_truth_class_regression

__all__ = [
    "class_aware_regression",
    "contrastive_loss",
    "converted_prediction_distillation",
    "ground_truth_class_regression",
    "level_weights",
    "object_scores",
    "prediction_distillation",
    "semantic_guided_imitation",
    "sigmoid_prediction_distillation",
]
