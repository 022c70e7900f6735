"""How good a teacher is on the validation set: AP by the run's own metric, and calibration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn
from torchvision.ops import box_iou

DEAD_AP, WEAK_AP = 0.05, 0.2
POOR_CALIBRATION = 0.2
BINS = 10


def measure_teacher(runner: Any, teacher: nn.Module) -> dict[str, float]:
    """The teacher's metrics on the runner's validation set; draws no global randomness.

    `calibration_error` is added where the pipeline loads the ground truth.
    """
    evaluator, loader = runner.val_loop.evaluator, runner.val_loop.dataloader
    devices = range(torch.cuda.device_count())  # without them PyTorch warns where there are many
    scored: list[tuple[Tensor, Tensor]] = []
    with torch.random.fork_rng(devices), torch.no_grad():
        for batch in loader:
            samples = teacher.val_step(batch)
            scored += [correct(s) for s in samples if "bboxes" in s.get("gt_instances", ())]
            evaluator.process(data_samples=samples, data_batch=batch)
        metrics = evaluator.evaluate(len(loader.dataset))
    found = {key: float(value) for key, value in metrics.items()}
    if scored:
        found["calibration_error"] = calibration_error(scored)
    return found


def correct(sample: Any, iou: float = 0.5) -> tuple[Tensor, Tensor]:
    """Scores (n,) of an image's detections, and whether each one finds an object of its class.

    Best first, each object is found once, by a box with that overlap, as for AP50.
    """
    found, truth = sample.pred_instances.cpu(), sample.gt_instances.cpu()
    order = found.scores.argsort(descending=True, stable=True)
    overlaps = box_iou(get_box_tensor(found.bboxes)[order], get_box_tensor(truth.bboxes).float())
    overlaps[found.labels[order][:, None] != truth.labels[None]] = 0
    hits = torch.zeros(len(order), dtype=torch.bool)
    for row in range(len(order) if overlaps.shape[1] else 0):
        best, column = overlaps[row].max(0)
        if best >= iou:
            hits[row] = True
            overlaps[:, column] = 0
    return found.scores[order], hits


def calibration_error(scored: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The expected calibration error: |score - part that is correct|, the mean over detections.

    Detections are put into ten bins of their score (Guo et al. 2017). 0 without detections.
    """
    scores, hits = (torch.cat(parts) for parts in zip(*scored, strict=True))
    if not len(scores):
        return 0.0
    bins = (scores * BINS).long().clamp(0, BINS - 1)
    error = torch.zeros(BINS).index_add_(0, bins, scores.float() - hits.float())
    return float(error.abs().sum() / len(scores))


def verdict(metrics: dict[str, float], baseline: float | None = None) -> str | None:
    """What to do about a weak teacher; None for a good one.

    Args:
        metrics: As `measure_teacher` gives them; the first one is that by which it is judged.
        baseline: The same metric of the student trained alone, if known.
    """
    name, value = next(iter(metrics.items()), ("no metric", 0.0))
    if value < DEAD_AP:
        return (
            f"The teacher is as good as dead ({name} {value:.3f}). Its config, its weights, the "
            "classes and their order, or its data_preprocessor do not match the data; distilling "
            "it will do harm. If all of them match, it has not been trained on these classes: "
            "gdetkd train TEACHER --data DIR"
        )
    if baseline is not None and value <= baseline:
        return (
            f"The teacher ({name} {value:.3f}) is no better than the student trained alone "
            f"({baseline:.3f}). Train the teacher longer, from pretrained weights or on more "
            "images, or take a larger one"
        )
    if baseline is None and value < WEAK_AP:
        return (
            f"The teacher is weak ({name} {value:.3f}): a student trained alone may reach as much. "
            "Train the teacher longer, from pretrained weights or on more images, and compare the "
            "student with one trained alone: gdetkd train STUDENT --data DIR"
        )
    error = metrics.get("calibration_error", 0.0)
    if error > POOR_CALIBRATION:
        return (
            f"The teacher's scores are off by {error:.2f} on average; a class distillation copies "
            "that. Lower the weight of classification, or leave it out"
        )
    return None
