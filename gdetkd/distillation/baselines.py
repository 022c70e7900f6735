"""Other ways to distil a detector, as baselines: what G-DetKD is compared with.

Each compares level with level at the same stride, cell with cell. On the whole pyramid:

- `Rigid`: every cell (FitNets, Romero et al. 2015).
- `Masked`: cells inside ground-truth boxes alone (in the spirit of Wang et al., "Distilling Object
  Detectors with Fine-grained Feature Imitation", CVPR 2019, whose mask is that of near anchors).
- `Normalized`: channels made zero mean and unit variance first (PKD, Cao et al., NeurIPS 2022).

On the outputs of dense heads:

- `Localization`: the distributions of box edges (LD, Zheng et al., CVPR 2022).

Plain logit distillation needs none of them: it is classification alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gdetkd.distillation.structures import DetectorSpec, RoIOutputs
from gdetkd.losses.common import check_number


class Rigid(nn.Module):
    """Same-level feature imitation; base of the others.

    A 1x1 convolution a level adapts the student's channels. The loss is the mean squared error
    over all cells and channels, averaged over levels.

    Raises:
        ValueError: The pair has no level of the same stride.
    """

    def __init__(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__()
        self.strides, self.levels = common_levels(student, teacher, "same-level imitation")
        self.adapt = nn.ModuleList(
            nn.Conv2d(student.channels, teacher.channels, 1) for _ in self.levels
        )

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        losses = [self.compare(mine, target) for mine, target, _ in self.maps(student, teacher)]
        loss = torch.stack(losses).mean()
        return loss, loss.new_full((), len(student.pyramid[0])), {}

    def maps(
        self, student: RoIOutputs, teacher: RoIOutputs
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """What the student made of each common level, adapted, the teacher's, the stride."""
        for (own, given), adapt, stride in zip(self.levels, self.adapt, self.strides, strict=True):
            pair = adapt(student.pyramid[own]), teacher.pyramid[given].detach()
            yield *where_both_are(*pair), stride

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The error of one level, (B, C, H, W) each."""
        return (student - teacher).square().mean()


class Masked(Rigid):
    """`Rigid` inside the ground-truth boxes: mean over the cells, of all levels, whose centre lies
    in one.

    Raises:
        ValueError: At a step, if the student's view does not know the ground truth.
    """

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        truth = student.need("truth", "masked")
        total, cells = student.pyramid[0].new_zeros((), dtype=torch.float32), 0
        for mine, target, stride in self.maps(student, teacher):
            inside = inside_boxes(truth, len(mine), mine.shape[2:], stride)
            total = total + ((mine - target).square().mean(1) * inside).sum()
            cells = cells + inside.sum()
        return total / cells.clamp(min=1), cells.to(total.dtype), {}


class Normalized(Rigid):
    """`Rigid` after each channel is normalised over the batch and its cells.

    Half the squared error is then 1 minus Pearson's correlation: the teacher's scale and a few
    loud channels no longer rule the loss.
    """

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (_standard(student) - _standard(teacher)).square().mean() / 2


class Localization(nn.Module):
    """Distributions of box edges, distilled cell by cell (LD, Zheng et al., CVPR 2022).

    For two dense heads that predict, at every cell, how likely each distance of a box's edges is.
    The loss is the Kullback-Leibler divergence of the student's distribution from the teacher's,
    both softened by a temperature, times its square; the mean over four edges and over the cells
    of all common levels. A cell counts by the teacher's highest class score there: the teacher
    says where objects are (ours; LD takes the cells to which training assigns objects, and a
    region around them).

    Args:
        student, teacher: The pair.
        temperature: LD's 10 by default.

    Raises:
        ValueError: One of the pair predicts no such distributions, or they have not the same bins
            or no level of the same stride.
    """

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, temperature: float = 10.0
    ) -> None:
        super().__init__()
        if student.edge_bins is None or student.edge_bins != teacher.edge_bins:
            raise ValueError(
                "localization: expected two dense heads that predict distributions of box edges "
                f"over as many bins (GFLHead's reg_max + 1), got {student.edge_bins} bins from "
                f"{student.name} and {teacher.edge_bins} from {teacher.name}"
            )
        check_number("localization: temperature", temperature, 0, above=True)
        self.bins, self.temperature = student.edge_bins, temperature
        _, self.levels = common_levels(student, teacher, "localization")

    def forward(self, student: RoIOutputs, teacher: RoIOutputs) -> tuple[Tensor, Tensor, dict]:
        total = cells = 0.0
        for own, given in self.levels:
            mine, target = where_both_are(student.edge_maps[own], teacher.edge_maps[given].detach())
            scores = teacher.class_maps[given].detach()[..., : mine.shape[2], : mine.shape[3]]
            weight = scores.float().sigmoid().amax(1)
            mine, target = (
                (maps.unflatten(1, (4, self.bins)) / self.temperature).log_softmax(2)
                for maps in (mine, target)
            )
            divergence = (target.exp() * (target - mine)).sum(2).mean(1)
            total, cells = total + (weight * divergence).sum(), cells + weight.sum()
        return self.temperature**2 * total / cells, cells, {}


def common_levels(
    student: DetectorSpec, teacher: DetectorSpec, title: str
) -> tuple[list[float], list[tuple[int, int]]]:
    """The strides that both pyramids have, and for each its level in the student and teacher.

    Raises:
        ValueError: There is none.
    """
    common = [stride for stride in student.strides if stride in teacher.strides]
    if not common:
        raise ValueError(
            f"{title}: expected pyramids with a stride in common, got "
            f"{student.strides} from {student.name} and {teacher.strides} from {teacher.name}"
        )
    levels = [(student.strides.index(stride), teacher.strides.index(stride)) for stride in common]
    return common, levels


def where_both_are(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, C, H, W) cut to the cells of both, in float32: a batch may be padded further."""
    height, width = (min(a, b) for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return student[..., :height, :width].float(), teacher[..., :height, :width].float()


def inside_boxes(rois: Tensor, images: int, size: tuple[int, int], stride: float) -> Tensor:
    """Cells whose centre lies in a box of their image.

    Args:
        rois: (M, 5) [image, x1, y1, x2, y2], pixels.
        images, size, stride: The maps: how many, (H, W) in cells, pixels a cell.

    Returns:
        (images, H, W) bool.
    """
    height, width = size
    x = (torch.arange(width, device=rois.device) + 0.5) * stride
    y = (torch.arange(height, device=rois.device) + 0.5) * stride
    across = (x >= rois[:, 1:2]) & (x <= rois[:, 3:4])
    down = (y >= rois[:, 2:3]) & (y <= rois[:, 4:5])
    each = (down[:, :, None] & across[:, None, :]).float()
    inside = each.new_zeros(images, height, width)
    inside.index_add_(0, rois[:, 0].long(), each)
    return inside > 0


def _standard(features: Tensor) -> Tensor:
    """(B, C, H, W) with every channel of zero mean and unit variance over B, H and W."""
    mean = features.mean((0, 2, 3), keepdim=True)
    centred = features - mean
    return centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-6).sqrt()
