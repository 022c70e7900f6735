"""Exercises of notebook 8: what changes with more processes, and what an interruption costs."""

from __future__ import annotations

import math

from gdetkd.lessons.exercises import Exercise, close, number


def scaled_rate(rate: float, images: int, gpus: int, images_per_gpu: int) -> float:
    """The learning rate for a total batch other than the one it was chosen for (linear rule)."""
    return rate * gpus * images_per_gpu / images


def _right_rate(answer) -> str | None:
    for case in ((0.02, 16, 8, 2), (0.02, 16, 4, 2), (0.01, 8, 2, 16)):
        got = answer(*case)
        if hint := number(got):
            return hint
        if not close(float(got), scaled_rate(*case)):
            rate, images, gpus, each = case
            return (
                f"rate {rate} chosen for {images} images a step, now {gpus} GPUs with {each} each: "
                f"not {float(got):g}"
            )
    return None


def repeated(step: int, interval: int) -> int:
    """Steps that are done again after a kill -9 at the end of `step`."""
    return step % interval


def _right_repeated(answer) -> str | None:
    for step, interval in ((37, 10), (40, 10), (7, 10), (1999, 1000)):
        got = answer(step, interval)
        if hint := number(got):
            return hint
        if float(got) != repeated(step, interval):
            return f"a checkpoint every {interval} steps, killed after step {step}: not {got}"
    return None


def steps_of(images: int, gpus: int, images_per_gpu: int, epochs: int) -> int:
    """Steps of a training by epochs; the last batch of an epoch may be filled up."""
    return math.ceil(images / (gpus * images_per_gpu)) * epochs


def _right_steps(answer) -> str | None:
    for case in ((117_266, 8, 2, 24), (100, 2, 4, 3), (64, 2, 4, 1)):
        got = answer(*case)
        if hint := number(got):
            return hint
        if float(got) != steps_of(*case):
            return "{} images, {} GPUs, {} images each, {} epochs: not {}".format(*case, got)
    return None


EXERCISES = {
    "rate": Exercise(
        "Write scaled_rate(rate, images, gpus, images_per_gpu): rate was chosen for images a step.",
        (_right_rate,),
        scaled_rate,
        {
            "unchanged": lambda rate, images, gpus, each: rate,
            "by the GPUs alone": lambda rate, images, gpus, each: rate * gpus / 8,
            "upside down": lambda rate, images, gpus, each: rate * images / (gpus * each),
            "a square root": lambda rate, images, gpus, each: rate * (gpus * each / images) ** 0.5,
        },
    ),
    "repeated": Exercise(
        "Write repeated(step, interval): killed after `step`, how many steps are done again?",
        (_right_repeated,),
        repeated,
        {
            "always an interval": lambda step, interval: interval,
            "from the start": lambda step, interval: step,
            "half an interval": lambda step, interval: interval / 2,
            "to the next checkpoint": lambda step, interval: interval - step % interval,
        },
    ),
    "steps": Exercise(
        "Write steps_of(images, gpus, images_per_gpu, epochs) of a training by epochs.",
        (_right_steps,),
        steps_of,
        {
            "rounded down": lambda images, gpus, each, epochs: images // (gpus * each) * epochs,
            "a GPU's batch": lambda images, gpus, each, epochs: math.ceil(images / each) * epochs,
            "rounded once, at the end": lambda images, gpus, each, epochs: math.ceil(
                images * epochs / (gpus * each)
            ),
            "one epoch": lambda images, gpus, each, epochs: math.ceil(images / (gpus * each)),
        },
    ),
}
