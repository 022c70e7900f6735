"""Short trainings on images in memory, one step at a time: to watch a step, not to measure AP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from gdetkd.checkpoints.hub import find_checkpoint
from gdetkd.checkpoints.loading import load_strictly
from gdetkd.checkpoints.student import read_student
from gdetkd.detectors.mmdet.building import build_to_train
from gdetkd.evaluation.images import Images
from gdetkd.training.config import load_config


def build_training(
    config: str,
    options: Mapping[str, Any] | None = None,
    student: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """The detector of a config in training mode, initialized as a run would initialize it.

    Args:
        config, options: As for `gdetkd.training.config.load_config`.
        student: A checkpoint whose weights the student starts from; by default it starts from its
            initialization.
        seed: Of the initialization.

    Raises:
        ValueError: The weights do not fit the config.
    """
    MMLogger.get_current_instance().setLevel("ERROR")  # not every initialization, no hooks here
    detector = build_to_train(load_config(config, options).model, seed)
    if student is not None:
        where = find_checkpoint(student)
        load_strictly(getattr(detector, "student", detector), read_student(where), where)
    return detector


def training_steps(
    detector: nn.Module,
    images: Images,
    steps: int,
    learning_rate: float,
    batch: int = 8,
    seed: int = 0,
) -> Iterator[dict[str, float]]:
    """Train step by step and yield each step's losses; the detector can be inspected in between.

    The optimizer is that of the digits configs (AdamW, clipped gradients) at a constant learning
    rate. Batches are shuffled by `seed`, and no image repeats before all have been used, so the
    same seed gives two detectors the same batches.
    """
    optimizer = build_optim_wrapper(
        detector,
        dict(
            type="OptimWrapper",
            optimizer=dict(type="AdamW", lr=learning_rate, weight_decay=1e-4),
            clip_grad=dict(max_norm=10.0),
        ),
    )
    data = images.data()
    order = _endless(len(images), torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)  # for the proposal samplers
    for _ in range(steps):
        chosen = [next(order) for _ in range(batch)]
        losses = detector.train_step(
            {name: [values[index] for index in chosen] for name, values in data.items()}, optimizer
        )
        yield {name: value.item() for name, value in losses.items()}


def fit_projection(
    projection: nn.Module,
    student: Tensor,
    teacher: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int = 60,
    learning_rate: float = 2e-3,
) -> Iterator[float]:
    """Train a projection alone on fixed representations (N, D), and yield each step's loss.

    loss: takes the projections (N, E) of the student's and the teacher's representations.
    """
    optimizer = torch.optim.AdamW(projection.parameters(), learning_rate)
    for _ in range(steps):
        value = loss(projection(student), projection(teacher))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        yield value.item()


def _endless(count: int, random: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=random).tolist()
