"""Which of its predicted boxes a student without RoIs is distilled on.

A dense detector predicts a box at every location of its pyramid, and a DETR by every query, most
of them of background. The paper matches the boxes of dense detectors to the ground truth (positive
above an IoU of 0.5) and samples positives and negatives 1:3, as R-CNN does with its proposals.
Ours, for the paper does not say: where positives are few, negatives fill up the number, so that a
student that hits nothing yet learns as well; and they are drawn uniformly from all locations unless
`candidates` asks for the confident ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

SMALLEST_SIDE = 1.0  # px; of a smaller box, or one clipped away, a teacher sees nothing


@torch.no_grad()
def matched_labels(boxes: Tensor, truth: Tensor, labels: Tensor, background: int) -> Tensor:
    """The class of the ground truth that each box of an image overlaps most.

    boxes: (n, 4); truth: (m, 4), both x1, y1, x2, y2 in pixels; labels: (m,) classes of `truth`.
    Gives (n,) labels, `background` where no IoU is above 0.5.
    """
    result = labels.new_full((len(boxes),), background)
    if len(truth) == 0:
        return result
    iou, best = box_iou(boxes, truth.to(boxes)).max(1)
    return torch.where(iou > 0.5, labels[best], result)


class SampledBoxes(NamedTuple):
    """Predicted boxes that were drawn, image by image.

    Attributes:
        image, index: (N,), the image of each and its index among the predictions of that image.
        rois: (N, 5) [image, x1, y1, x2, y2], pixels.
        labels: (N,) in [0, C], C = background.
    """

    image: Tensor
    index: Tensor
    rois: Tensor
    labels: Tensor


def sample_boxes(
    sampler: BoxSampler,
    boxes: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    num_classes: int,
) -> SampledBoxes:
    """Match predicted boxes (B, n, 4) to the truth of their images, (m, 4) and (m,), and draw."""
    labels = torch.stack(
        [
            matched_labels(*each, num_classes)
            for each in zip(boxes, gt_boxes, gt_labels, strict=True)
        ]
    )
    image, index = sampler(boxes, labels < num_classes)
    rois = torch.cat([image[:, None].to(boxes), boxes[image, index]], 1)
    return SampledBoxes(image, index, rois, labels[image, index])


class BoxSampler(nn.Module):
    """Draws boxes of every image, positives first.

    It has a random stream of its own, so that a distilled run and its baseline see equal batches:
    step t of a training draws from the seed and t, and t is saved with the training.

    Args:
        boxes_per_image: At most so many.
        positive_fraction: At most this part of them overlaps an object; 0.25 is the paper's 1:3.
        candidates: Draw negatives among so many boxes of an image with the highest scores; None
            takes all with equal probability.
        seed: Of the random stream.

    Raises:
        ValueError: A number out of its range.
    """

    def __init__(
        self,
        boxes_per_image: int = 512,
        positive_fraction: float = 0.25,
        candidates: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if boxes_per_image < 1 or not 0 <= positive_fraction <= 1:
            raise ValueError(
                "expected boxes_per_image >= 1 and positive_fraction within 0..1, got "
                f"{boxes_per_image} and {positive_fraction}"
            )
        if candidates is not None and candidates < 1:
            raise ValueError(f"expected candidates >= 1, or None for all boxes, got {candidates}")
        self.boxes_per_image = boxes_per_image
        self.positives = round(boxes_per_image * positive_fraction)
        self.candidates, self.seed = candidates, seed
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._steps = 0  # mirrors the buffer: reading that would wait for the GPU

    @torch.no_grad()
    def forward(
        self, boxes: Tensor, positive: Tensor, scores: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw for one step.

        boxes: (B, n, 4), pixels, clipped to their images; positive: (B, n) bool; scores: (B, n),
        needed with `candidates`. Gives the image (N,) and the index within n (N,) of the boxes
        drawn, image by image, positives first. Boxes that are not finite or less than a pixel
        wide or high are never drawn.

        Raises:
            ValueError: `candidates` is set and there are no scores.
        """
        if self.candidates is not None and scores is None:
            raise ValueError(
                f"expected scores (B, n) beside candidates={self.candidates}, got None"
            )
        # The CPU's generator reads the lower 32 bits alone; seeds stay a million steps apart.
        random = torch.Generator(boxes.device)
        random.manual_seed((self.seed * 1_000_003 + self._steps) % 2**32)
        self._set(self._steps + 1)
        draws = torch.rand(positive.shape, generator=random, device=boxes.device)
        sides = boxes[..., 2:] - boxes[..., :2]
        usable = (sides >= SMALLEST_SIDE).all(-1) & boxes.isfinite().all(-1)
        negative = usable & ~positive
        if self.candidates is not None and self.candidates < boxes.shape[1]:
            allowed = scores.masked_fill(~negative, -torch.inf).topk(self.candidates).indices
            negative &= torch.zeros_like(negative).scatter_(1, allowed, True)
        # The highest keys are drawn: those of negatives are within 0 to 1, of the positives chosen
        # within 1 to 2, and of what cannot be drawn below 0. All shapes are known beforehand.
        chosen = draws.masked_fill(~(usable & positive), -1)
        chosen = chosen.topk(min(self.positives, boxes.shape[1]))
        keys = draws.masked_fill(~negative, -1).scatter_reduce(
            1, chosen.indices, chosen.values + (chosen.values >= 0), "amax"
        )
        best = keys.topk(min(self.boxes_per_image, boxes.shape[1]))
        image, place = (best.values >= 0).nonzero(as_tuple=True)
        return image, best.indices[image, place]

    def undo(self) -> None:
        """Take the last step back: the next draw is that one again."""
        self._set(max(0, self._steps - 1))

    def _set(self, steps: int) -> None:
        self._steps = steps
        self.steps.fill_(steps)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._steps = int(self.steps)
