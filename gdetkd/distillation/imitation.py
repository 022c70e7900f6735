"""Semantic-guided feature imitation (SGFI): section 4.1 of the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gdetkd.distillation.component import Component, ComponentOutput, register_component
from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses import level_weights, semantic_guided_imitation
from gdetkd.losses.common import check_integer, check_number
from gdetkd.ops.roi_align import roi_align_levels


@register_component("imitation")
class Imitation(Component):
    """Let the student's levels together imitate the teacher's feature of a box.

    The box is pooled from all levels of the student; each level is weighted by how well its
    embedding agrees with that of the teacher's feature, and their sum imitates it.

    Args:
        student, teacher: The pair.
        embedding: Channels of the two stride-2 convolutions that embed a pooled box; by default a
            half and a quarter of the teacher's width (ours, as is the ReLU after each).
        temperature: Initial value of the learnable tau (ours).
        sampling_ratio: RoIAlign's samples per bin and axis; 0 takes as many as a bin has cells.
        boxes_per_image: Imitate only the first so many boxes of an image (MMDetection lists the
            foreground first); by default all of them, as in the paper. A shortcut for the CPU.

    Raises:
        ValueError: A number out of range, at a step a pyramid without one level per stride.
    """

    teacher_fields = ("pooled",)

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        embedding: tuple[int, int] | None = None,
        temperature: float = 1.0,
        sampling_ratio: int = 0,
        boxes_per_image: int | None = None,
    ) -> None:
        super().__init__()
        check_number("imitation: temperature", temperature, 0, above=True)
        check_integer("imitation: sampling_ratio", sampling_ratio, 0)
        if boxes_per_image is not None:
            check_integer("imitation: boxes_per_image", boxes_per_image, 1)
        width = teacher.pooled_channels
        embedding = embedding or (width // 2, width // 4)
        if not isinstance(embedding, list | tuple) or len(embedding) != 2:
            raise ValueError(
                f"imitation: expected embedding to be the widths of two layers, got {embedding!r}"
            )
        for each in embedding:
            check_integer("imitation: each width of embedding", each, 1)
        self.strides, self.size = student.strides, teacher.pooled_size
        self.sampling_ratio, self.boxes_per_image = sampling_ratio, boxes_per_image
        # No bias, so that adapting the pyramid and then pooling is pooling and then adapting.
        channels = student.level_channels
        shared = len(set(channels)) == 1
        adapters = [_adapter(each, width) for each in channels[: 1 if shared else None]]
        self.adapt = adapters[0] if shared else nn.ModuleList(adapters)
        middle, last = embedding
        self.embed = nn.Sequential(
            nn.Conv2d(width, middle, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, last, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    def compute(self, student: RoIOutputs, teacher: RoIOutputs) -> ComponentOutput:
        if len(student.pyramid) != len(self.strides):
            raise ValueError(
                f"imitation: expected {len(self.strides)} pyramid levels of the student, one for "
                f"each of its strides, got {len(student.pyramid)}"
            )
        chosen = self.chosen(student.rois)
        rois, target = student.rois[chosen], teacher.pooled.detach()[chosen]
        adapted = list(self.adapted(student.pyramid))
        levels = roi_align_levels(adapted, rois, self.size, self.strides, self.sampling_ratio)
        if isinstance(levels, Tensor):  # of small maps: one call for all
            embedded = self.embed(levels.flatten(0, 1)).unflatten(0, levels.shape[:2])
            embedded, levels = embedded.transpose(0, 1), levels.transpose(0, 1)
        else:
            embedded = torch.stack([self.embed(level) for level in levels], 1)
        weights = level_weights(embedded, self.embed(target), self.log_temperature.exp())
        loss = semantic_guided_imitation(levels, target, weights)
        shares = weights.detach().mean(0) if len(rois) else weights.new_zeros(len(self.strides))
        diagnostics = {f"level_{index}_share": share for index, share in enumerate(shares)}
        return ComponentOutput(loss, len(rois), diagnostics)

    def adapted(self, pyramid: Sequence[Tensor]) -> Iterator[Tensor]:
        """The student's levels in the teacher's width, one by one."""
        shared = isinstance(self.adapt, nn.Conv2d)
        adapters = [self.adapt] * len(pyramid) if shared else self.adapt
        return (adapt(level) for adapt, level in zip(adapters, pyramid, strict=True))

    def chosen(self, rois: Tensor) -> Tensor | slice:
        """Which of the boxes (N, 5) are imitated."""
        if self.boxes_per_image is None:
            return slice(None)
        return first_of_each_image(rois, self.boxes_per_image)


def _adapter(student: int, teacher: int) -> nn.Conv2d:
    layer = nn.Conv2d(student, teacher, 1, bias=False)
    if student == teacher:
        nn.init.dirac_(layer.weight)
    return layer


def first_of_each_image(rois: Tensor, count: int) -> Tensor:
    """Indices of the first `count` boxes of every image of rois (N, 5), in their order."""
    same_image = rois[:, 0] == rois[:, 0, None]
    position = same_image.tril(-1).sum(1)
    return (position < count).nonzero().squeeze(1)
