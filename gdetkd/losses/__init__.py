"""The losses of G-DetKD, in plain PyTorch: any detector can use them.

Each comes with the equation itself as a naive form, to read and to test against.
"""

from gdetkd.losses.classification import (
    converted_prediction_distillation,
    naive_converted_prediction_distillation,
    naive_prediction_distillation,
    object_scores,
    prediction_distillation,
    sigmoid_prediction_distillation,
)
from gdetkd.losses.contrastive import contrastive_loss, naive_contrastive_loss
from gdetkd.losses.imitation import (
    level_weights,
    naive_semantic_guided_imitation,
    semantic_guided_imitation,
)
from gdetkd.losses.regression import (
    class_aware_regression,
    ground_truth_class_regression,
    naive_class_aware_regression,
)

__all__ = [
    "class_aware_regression",
    "contrastive_loss",
    "converted_prediction_distillation",
    "ground_truth_class_regression",
    "level_weights",
    "naive_class_aware_regression",
    "naive_contrastive_loss",
    "naive_converted_prediction_distillation",
    "naive_prediction_distillation",
    "naive_semantic_guided_imitation",
    "object_scores",
    "prediction_distillation",
    "semantic_guided_imitation",
    "sigmoid_prediction_distillation",
]
