"""Exercises of notebook 11: learning rate, schedule, and the steps lost to an interruption."""

from __future__ import annotations

import math

from gdetkd.lessons.exercises import Exercise, function_check


def scaled_rate(rate: float, images: int, gpus: int, images_per_gpu: int) -> float:
    """The learning rate scaled linearly to another total batch size."""
    return rate * gpus * images_per_gpu / images


def repeated(step: int, interval: int) -> int:
    """Steps to repeat after a kill -9 at the end of `step`."""
    return step % interval


def steps_of(images: int, gpus: int, images_per_gpu: int, epochs: int) -> int:
    """Steps of a training in epochs; an incomplete last batch counts as a step."""
    return math.ceil(images / (gpus * images_per_gpu)) * epochs


EXERCISES = {
    "rate": Exercise(
        "Write scaled_rate(rate, images, gpus, images_per_gpu): rate is for images per step.",
        function_check(
            scaled_rate,
            ((0.02, 16, 8, 2), (0.02, 16, 4, 2), (0.01, 8, 2, 16)),
            "rate {} chosen for {} images per step, now {} GPUs with {} images each",
        ),
        scaled_rate,
    ),
    "repeated": Exercise(
        "Write repeated(step, interval): killed after `step`, how many steps are repeated?",
        function_check(
            repeated,
            ((37, 10), (40, 10), (7, 10), (1999, 1000)),
            "killed after step {} with a checkpoint every {} steps",
        ),
        repeated,
    ),
    "steps": Exercise(
        "Write steps_of(images, gpus, images_per_gpu, epochs) of a training in epochs.",
        function_check(
            steps_of,
            ((117_266, 8, 2, 24), (100, 2, 4, 3), (64, 2, 4, 1)),
            "{} images, {} GPUs, {} images per GPU, {} epochs",
        ),
        steps_of,
    ),
}
